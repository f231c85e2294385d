"""Element types of ONNX as torch calls them."""

from __future__ import annotations

from ..building import Op

TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip


def torch_type(op: Op, attribute: str = "to") -> str:
    """The type that an attribute names, or (CastLike) that of the second input."""
    if op.type == "CastLike":
        return str(op.value(1).data.dtype).removeprefix("torch.")
    number = int(op.attribute(attribute, 1))
    if number not in TYPES:
        raise op.unsupported(f"element type {number} is not known")
    return TYPES[number]
