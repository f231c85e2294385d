"""Where an ONNX file says that its weights are: a stranger's must not name files elsewhere on the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import CorruptFile


def check_paths(path: Path) -> None:
    """Refuse a file with external data outside its own folder; what is no ONNX at all is left to the runtime to tell.

    Raises:
        CorruptFile: there is such data.
    """
    content = path.read_bytes()
    if b"location" not in content:
        return  # the key of external data: most files are not parsed twice
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_from_string(content)
    except DecodeError:
        return
    folder = path.resolve().parent
    for tensor in [tensor for part in (model.graph, *model.functions) for tensor in _tensors(part)]:
        for entry in tensor.external_data:
            place = folder / entry.value
            if entry.key == "location" and not place.resolve().is_relative_to(folder):
                raise CorruptFile(
                    str(path),
                    f"tensor {tensor.name!r} is said to be in {entry.value!r}, outside the file's folder",
                    "do not use it, or save it as one file",
                )


def _tensors(graph: Any) -> list[Any]:
    """Stored tensors of a graph or a function, of its nodes' attributes and of the graphs in them."""
    found = list(getattr(graph, "initializer", ()))
    for sparse in getattr(graph, "sparse_initializer", ()):
        found += [sparse.values, sparse.indices]
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.t, *attribute.tensors]
            for inner in [attribute.g, *attribute.graphs]:
                found += _tensors(inner)
    return found
