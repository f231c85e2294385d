"""Operations on integers that stand for real numbers: one small rule per ATen operation.

Whole numbers are kept in int64 tensors, so that a sum of more than 32 bits is seen rather than wrapped.
Products and sums of layers are taken in float64, where they are exact below 2^53.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..network.flow import MOVES

_INT32 = 2**31
_FRACTION = 31  # bits of a rescaling multiplier
_HEADROOM = 20  # bits kept below the point when two scales meet in a sum (as TensorFlow Lite does)


class DoesNotFit(Exception):
    """A sum needs more than 32 bits."""


@dataclass(frozen=True)
class Integers:
    """`values · scale`."""

    values: Tensor
    """int64, zero point taken off: 0 stands for 0."""
    scale: Tensor
    """float64, [] or broadcastable with `values` (an accumulator behind weights scaled by channel)."""

    def to_float(self) -> Tensor:
        """The real numbers, float64."""
        return self.values * self.scale


@dataclass(frozen=True)
class Floats:
    """Real numbers that come from integers by an operation without a rule."""

    values: Tensor

    def to_float(self) -> Tensor:
        """The real numbers."""
        return self.values


Rule = Callable[..., Any]
"""(func, *args, **kwargs) with shadows in place of tensors → the shadow of the result, or NotImplemented."""
RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def rescale(values: Tensor, ratio: Tensor) -> Tensor:
    """`values · ratio`, rounded half to even, by an integer product and a shift.

    Args:
        values: int64, of 32 bits.
        ratio: float64, positive, broadcastable with `values`.
    """
    fraction, exponent = torch.frexp(ratio)
    multiplier = torch.round(fraction * 2.0**_FRACTION).long()
    shift = _FRACTION - exponent.long()
    product = values * multiplier
    left, right = (-shift).clamp(min=0), shift.clamp(0, 62)
    product = product << left
    whole, rest = product >> right, product & ((1 << right) - 1)
    half = torch.where(right > 0, 1 << (right - 1).clamp(min=0), 1)
    up = (right > 0) & ((rest > half) | ((rest == half) & (whole & 1 == 1)))
    return whole + up.long()


def require_32_bits(values: Tensor, what: str) -> Tensor:
    """`values`, if an int32 accumulator holds them all."""
    if values.numel() and int(values.abs().max()) >= _INT32:
        raise DoesNotFit(f"a sum in {what} needs more than 32 bits")
    return values


def _single(x: Any) -> bool:
    return isinstance(x, Integers) and x.scale.numel() == 1


@_rule(
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams", "fake_quantize_per_tensor_affine_cachemask"
)
def _quantize(_func: Any, x: Any, scale: Any, zero_point: Any, *rest: int) -> Any:
    return quantized(x, scale, zero_point, *rest[-2:], axis=-1), None  # the mask of what is inside


@_rule("fake_quantize_per_channel_affine_cachemask")
def _quantize_channels(
    _func: Any, x: Any, scale: Tensor, zero_point: Tensor, axis: int, qmin: int, qmax: int
) -> Any:
    return quantized(x, scale, zero_point, qmin, qmax, axis=axis), None


@_rule("quantize_dequantize")
def _operator(
    _func: Any, x: Any, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int
) -> Integers:
    return quantized(x, scale, zero_point, qmin, qmax, axis=axis)


def quantized(x: Any, scale: Any, zero_point: Any, qmin: int, qmax: int, *, axis: int) -> Integers:
    """What a quantizer makes of a shadow or of a constant."""
    dims = (x.values if isinstance(x, Integers | Floats) else x).dim()
    shape = [-1 if dim == axis else 1 for dim in range(dims)] if axis >= 0 else []
    scale = torch.as_tensor(scale).double().reshape(shape)
    zero = torch.as_tensor(zero_point).long().reshape(shape)
    return Integers(_rounded(x, scale, qmin - zero, qmax - zero), scale)


def _rounded(x: Any, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    if isinstance(x, Integers):
        values = rescale(require_32_bits(x.values, "a quantizer"), x.scale / scale)
    else:
        real = x.to_float() if isinstance(x, Floats) else x
        inverse = 1.0 / scale.float()  # as the fused kernel rounds
        values = torch.round(real / scale if real.dtype == torch.float64 else real.float() * inverse).long()
    return torch.minimum(torch.maximum(values, low), high)


@_rule("convolution")
def _convolution(func: Any, x: Any, weight: Any, bias: Any, *options: Any) -> Any:
    transposed, groups = options[3], options[-1]
    weight = _with_integers(weight, dim=1 if transposed else 0)
    if not _single(x) or not isinstance(weight, Integers):
        return NotImplemented
    scale = weight.scale.flatten()
    if transposed and groups > 1 and scale.numel() > 1:
        scale = scale.repeat(groups)
    scale = (
        (scale * x.scale).view(1, -1, *[1] * (x.values.dim() - 2))
        if scale.numel() > 1
        else scale[0] * x.scale
    )
    total = func(x.values.double(), weight.values.double(), None, *options).long()
    return _with_bias(total, scale, bias, dim=1)


@_rule("addmm")
def _addmm(_func: Any, bias: Any, x: Any, weight: Any, **options: Any) -> Any:
    if any(value != 1 for value in options.values()):
        return NotImplemented
    return _product(x, weight, bias)


@_rule("mm")
def _mm(_func: Any, x: Any, weight: Any) -> Any:
    return _product(x, weight, None)


def _product(x: Any, weight: Any, bias: Any) -> Any:
    """`x @ weight`, the weight [in, out] with a scale for each output."""
    weight = _with_integers(weight, dim=1)
    if not _single(x) or not isinstance(weight, Integers):
        return NotImplemented
    scale = weight.scale.expand(weight.values.shape)
    if not torch.equal(scale, scale[:1].expand_as(scale)):
        return NotImplemented
    total = (x.values.double() @ weight.values.double()).long()
    return _with_bias(total, scale[:1] * x.scale, bias, dim=1)


def _with_bias(total: Tensor, scale: Tensor, bias: Any, *, dim: int) -> Any:
    if isinstance(bias, Integers | Floats):
        return NotImplemented
    if bias is not None:
        shape = [-1 if number == dim else 1 for number in range(total.dim())]
        total = total + torch.round(bias.double().view(shape) / scale).long()
    return Integers(require_32_bits(total, "a layer"), scale)


def _with_integers(weight: Any, dim: int = 0) -> Any:
    """A plain weight of ±one magnitude per channel is a 1-bit one."""
    if not isinstance(weight, Tensor):
        return weight
    rows = weight.detach().movedim(dim, 0).flatten(1).double().abs()
    if not rows.numel() or not torch.equal(rows, rows[:, :1].expand_as(rows)) or not rows.all():
        return weight
    shape = [-1 if number == dim else 1 for number in range(weight.dim())]
    return Integers(weight.sign().long(), rows[:, 0].view(shape))


@_rule("relu")
def _relu(_func: Any, x: Any) -> Any:
    return Integers(x.values.clamp(min=0), x.scale) if isinstance(x, Integers) else NotImplemented


@_rule("hardtanh", "clamp", "clamp_min")
def _clamp(_func: Any, x: Any, low: Any = None, high: Any = None) -> Any:
    if not isinstance(x, Integers) or any(isinstance(end, Tensor) for end in (low, high)):
        return NotImplemented
    values = x.values
    for end, limit in ((low, torch.maximum), (high, torch.minimum)):
        if end is not None:
            values = limit(values, torch.round(end / x.scale).long())
    return Integers(values, x.scale)


@_rule("add")
def _add(_func: Any, x: Any, y: Any, *, alpha: float = 1) -> Any:
    if alpha != 1 or not (_single(x) and _single(y)) or max(_largest(x), _largest(y)) >= 1 << 10:
        return NotImplemented
    scale = torch.maximum(x.scale, y.scale) * 2.0**-_HEADROOM
    total = rescale(x.values, x.scale / scale) + rescale(y.values, y.scale / scale)
    return Integers(require_32_bits(total, "an addition"), scale)


@_rule("mul")
def _mul(_func: Any, x: Any, y: Any) -> Any:
    if _single(x) and _single(y) and max(_largest(x), _largest(y)) < 1 << 10:
        return Integers(x.values * y.values, x.scale * y.scale)
    if isinstance(x, Integers) and isinstance(y, int | float) and y > 0:
        return Integers(x.values, x.scale * y)
    return NotImplemented


def _largest(x: Integers) -> int:
    return int(x.values.abs().max()) if x.values.numel() else 0


@_rule("mean", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
def _mean(func: Any, x: Any, *options: Any, **named: Any) -> Any:
    if not _single(x) or named.get("dtype") is not None:
        return NotImplemented
    if func.overloadpacket is not torch.ops.aten.mean:
        sides = zip(x.values.shape[-len(options[0]) :], options[0], strict=True)
        if any(given % wanted for given, wanted in sides):
            return NotImplemented  # its windows differ in size
    means = func(x.values.double(), *options, **named)
    return _summed(x, means, x.values.numel() // max(1, means.numel()))


@_rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _average(func: Any, x: Any, kernel: Any, stride: Any = None, padding: Any = 0, *rest: Any) -> Any:
    padded = any(padding) if isinstance(padding, list | tuple) else bool(padding)
    if not _single(x) or padded or any(rest[:1]) or any(rest[2:]):
        return NotImplemented
    count = 1
    for size in kernel:
        count *= size
    return _summed(x, func(x.values.double(), kernel, stride or kernel), count)


def _summed(x: Integers, means: Tensor, count: int) -> Integers:
    return Integers(require_32_bits(torch.round(means * count).long(), "a pool"), x.scale / count)


@_rule("cat")
def _cat(func: Any, parts: list[Any], *options: Any) -> Any:
    if not all(_single(part) and part.scale == parts[0].scale for part in parts):
        return NotImplemented
    return Integers(func([part.values for part in parts], *options), parts[0].scale)


def _move(func: Any, x: Any, *options: Any, **named: Any) -> Any:
    """What only moves values moves their integers, and the scales with them."""
    padded = func.overloadpacket is torch.ops.aten.constant_pad_nd
    if not isinstance(x, Integers) or (padded and any(options[1:])):
        return NotImplemented
    moved = func(x.values.double(), *options, **named)
    scale = x.scale
    if scale.numel() > 1:
        if func.overloadpacket.__name__.startswith(("max_pool", "adaptive_max", "constant_pad")):
            return NotImplemented
        scale = func(scale.expand(x.values.shape).contiguous(), *options, **named)
    if isinstance(moved, Tensor):
        return Integers(moved.long(), scale)
    scales = [scale] * len(moved) if scale.numel() == 1 else scale
    kept = moved[:1] if "max_pool" in func.overloadpacket.__name__ else moved
    return [Integers(part.long(), own) for part, own in zip(kept, scales, strict=False)]


RULES.update(dict.fromkeys(MOVES | {"constant_pad_nd"}, _move))
