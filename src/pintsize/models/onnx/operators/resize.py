"""Resize and its forerunner Upsample."""

from __future__ import annotations

from typing import Any

from ..building import Op
from .table import operator


@operator("Resize", "Upsample")
def resize(op: Op) -> None:
    """By torch's own interpolation where it is the same, else dimension by dimension."""
    mode = op.attribute("mode", "nearest")
    mode = "linear" if mode in ("linear", "bilinear") else mode
    scales, sizes = _wanted(op)
    axes = tuple(one % op.rank() for one in (op.attribute("axes") or range(op.rank())))
    if op.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise op.unsupported("keep_aspect_ratio_policy is not known")
    coordinates = op.attribute("coordinate_transformation_mode", "half_pixel")
    nearest = op.attribute("nearest_mode", "round_prefer_floor")
    if op.type == "Upsample" or op.version < 11:
        coordinates, nearest = "asymmetric", "floor"
    if coordinates == "tf_crop_and_resize":
        raise op.unsupported("tf_crop_and_resize is not known")
    corners = _torchs(op, mode, coordinates, nearest, scales, axes)
    if corners is not False:
        last = op.rank() - 2
        if sizes is not None:
            op.call(
                "interpolate", op.value(0), _behind(op, sizes, last), None, mode, corners[0], _antialias(op)
            )
        else:
            op.call("interpolate", op.value(0), None, scales[-last:], mode, corners[0], _antialias(op))
        return
    if _antialias(op):
        raise op.unsupported("antialias with these places is not known")
    op.call(
        "resize",
        op.value(0),
        sizes,
        scales,
        axes,
        mode,
        coordinates,
        nearest,
        cubic=op.attribute("cubic_coeff_a", -0.75),
        outside=bool(op.attribute("exclude_outside", 0)),
    )


def _antialias(op: Op) -> bool:
    return bool(op.attribute("antialias", 0))


def _wanted(op: Op) -> tuple[Any, Any]:
    """Scales and sizes; one of them is None. Before opset 10 scales are an attribute, before 11 the second input."""
    if op.type == "Upsample" and op.attribute("scales") is not None:
        return tuple(op.attribute("scales")), None
    index = 1 if op.type == "Upsample" or op.version < 11 else 2
    if op.has(3) and not (op.is_constant(3) and not op.value(3).data.numel()):
        return None, op.numbers(3)
    scales = op.numbers(index) or None
    if scales is not None and not isinstance(scales, tuple):
        raise op.unsupported("its scales are computed from shapes")
    return scales, None


def _behind(op: Op, sizes: Any, count: int) -> Any:
    """The last sizes."""
    if isinstance(sizes, tuple):
        return sizes[-count:]
    return op.between("sizes_slice", sizes, (-count,), (2**31,), (0,))


def _torchs(op: Op, mode: str, coordinates: str, nearest: str, scales: Any, axes: tuple[int, ...]) -> Any:
    """`(align_corners,)` where torch's interpolation does the same; else False."""
    rank = op.rank()
    if axes != tuple(range(rank)) or not 3 <= rank <= 5 or (mode == "cubic" and rank != 4):
        return False
    if scales is not None and tuple(scales[:2]) != (1.0, 1.0):
        return False
    if mode == "nearest":
        whole = scales is not None and all(one >= 1 and float(one).is_integer() for one in scales)
        if coordinates == "asymmetric" and nearest == "floor":
            return (None,)
        if whole and coordinates == "half_pixel" and nearest.startswith("round"):
            return (None,)
        return False
    if mode == "cubic" and (
        op.attribute("cubic_coeff_a", -0.75) != -0.75 or op.attribute("exclude_outside", 0)
    ):
        return False
    if coordinates == "align_corners":
        return (True,)
    return (False,) if coordinates in ("half_pixel", "pytorch_half_pixel") else False
