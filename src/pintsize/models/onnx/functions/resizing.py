"""Resizing, in all the ways that ONNX knows: by torch's own where it is the same, else dimension by dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .table import function, whole

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


@function
def interpolate(
    x: Tensor,
    sizes: Any,
    scales: Sequence[float] | None,
    mode: str,
    corners: bool | None,
    antialias: bool = False,
) -> Tensor:
    """`torch.nn.functional.interpolate` of all dimensions behind the channels."""
    kind = {"linear": _LINEAR.get(x.dim(), mode), "cubic": "bicubic"}.get(mode, mode)
    if scales is not None:
        return F.interpolate(
            x, scale_factor=list(scales), mode=kind, align_corners=corners, antialias=antialias
        )
    return F.interpolate(x, size=whole(sizes), mode=kind, align_corners=corners, antialias=antialias)


@function
def resize(
    x: Tensor,
    sizes: Any,
    scales: Sequence[float] | None,
    axes: Sequence[int],
    mode: str,
    coordinates: str,
    nearest: str,
    cubic: float = -0.75,
    outside: bool = False,
) -> Tensor:
    """Dimension by dimension: where each new value lies among the old ones, and their weights.

    Args:
        x: any shape.
        sizes: new ones of `axes`, or None.
        scales: of `axes`; where both are known the scale places the values.
        axes: which dimensions.
        mode: `nearest`, `linear` or `cubic`.
        coordinates: how places are told, in ONNX's words.
        nearest: how a place between two is rounded, in ONNX's words.
        cubic: the coefficient.
        outside: whether values beyond the edge have no weight.
    """
    wanted = whole(sizes) if sizes is not None else None
    for number, axis in enumerate(axes):
        old = x.shape[axis]
        scale = scales[number] if scales is not None else None
        new = wanted[number] if wanted is not None else int(old * scale)  # type: ignore[operator]
        if isinstance(new, int) and isinstance(old, int) and new == old and scale in (None, 1.0):
            continue
        place = _places(x, old, new, scale if scale is not None else new / old, coordinates)
        if mode == "nearest":
            x = x.index_select(axis, _rounded(place, nearest).clamp(0, old - 1).long())
        else:
            x = _weighted(x, axis, place, mode, cubic, outside)
    return x


def _places(x: Tensor, old: Any, new: Any, scale: Any, coordinates: str) -> Any:
    at: Any = torch.arange(new, dtype=torch.float32, device=x.device)
    if coordinates == "align_corners":
        return at * ((old - 1) / max(new - 1, 1))
    if coordinates == "asymmetric":
        return at / scale
    if coordinates == "tf_half_pixel_for_nn":
        return (at + 0.5) / scale
    if coordinates == "half_pixel_symmetric":
        adjust = new / (scale * old)
        return old / 2 * (1 - adjust) + (at + 0.5) / scale - 0.5
    if coordinates == "pytorch_half_pixel" and new == 1:
        return at * 0.0
    return (at + 0.5) / scale - 0.5


def _rounded(place: Tensor, how: str) -> Tensor:
    if how == "floor":
        return place.floor()
    if how == "ceil":
        return place.ceil()
    return (place - 0.5).ceil() if how == "round_prefer_floor" else (place + 0.5).floor()


def _weighted(x: Tensor, axis: int, place: Tensor, mode: str, cubic: float, outside: bool) -> Tensor:
    base = place.floor()
    part = place - base
    near = [(0, 1 - part), (1, part)]
    taps = near if mode == "linear" else [(k, _cubic(part - k, cubic)) for k in (-1, 0, 1, 2)]
    last = x.shape[axis] - 1
    if outside:
        taps = [(k, w * ((base + k >= 0) & (base + k <= last))) for k, w in taps]
        total = sum(w for _, w in taps)
        taps = [(k, w / total) for k, w in taps]
    spread = [-1 if dim == axis % x.dim() else 1 for dim in range(x.dim())]
    made: Any = 0
    for k, weight in taps:
        found = x.index_select(axis, (base + k).clamp(0, last).long())
        made = made + found * weight.to(x.dtype).reshape(spread)
    result: Tensor = made
    return result


def _cubic(at: Tensor, a: float) -> Tensor:
    far = at.abs()
    near = (a + 2) * far**3 - (a + 3) * far**2 + 1
    beyond = a * far**3 - 5 * a * far**2 + 8 * a * far - 4 * a
    return torch.where(far <= 1, near, torch.where(far < 2, beyond, torch.zeros_like(far)))
