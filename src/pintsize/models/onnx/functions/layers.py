"""Layers whose weights come from elsewhere in the network, and what surrounds recurrent ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .table import function

_CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)


@function
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution with a weight that the network computes."""
    return _CONVOLUTIONS[len(stride) - 1](x, weight, bias, stride, padding, dilation, groups)


@function
def instance_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Each image's channels by themselves."""
    return F.instance_norm(x, weight=weight, bias=bias, eps=eps)


@function
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """By the mean and deviation of what it is given."""
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)


@function
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, axis: int, eps: float) -> Tensor:
    """Over all dimensions from `axis` on."""
    axis = axis % x.dim()
    mean = x.mean(tuple(range(axis, x.dim())), keepdim=True)
    apart = x - mean
    made = apart * torch.rsqrt((apart * apart).mean(tuple(range(axis, x.dim())), keepdim=True) + eps) * weight
    return made if bias is None else made + bias


@function
def rms_norm(x: Tensor, weight: Tensor, axis: int, eps: float) -> Tensor:
    """By the root of the mean square, over all dimensions from `axis` on."""
    over = tuple(range(axis % x.dim(), x.dim()))
    return x * torch.rsqrt((x * x).mean(over, keepdim=True) + eps) * weight


@function
def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, per_group: bool = False
) -> Tensor:
    """Groups of channels by themselves; weights for each channel, or (opset 18) for each group."""
    if per_group:
        weight, bias = (one.repeat_interleave(x.shape[1] // groups) for one in (weight, bias))
    return F.group_norm(x, groups, weight, bias, eps)


@function
def recurrent(made: Any, directions: int, hidden: int, layout: int) -> tuple[Tensor, ...]:
    """What torch's LSTM, GRU or RNN gave, arranged as ONNX has it: [T, D, B, H], or [B, T, D, H] with layout 1."""
    out, state = made
    out = out.unflatten(-1, (directions, hidden))
    states = state if isinstance(state, tuple) else (state,)
    if layout:
        return (out, *(one.transpose(0, 1) for one in states))
    return (out.transpose(1, 2), *states)


@function
def state(*parts: Any) -> Any:
    """The first hidden state of a recurrent layer: one tensor, or a pair."""
    return parts[0] if len(parts) == 1 else tuple(parts)


@function
def grid_sample(x: Tensor, grid: Tensor, mode: str, padding: str, corners: bool) -> Tensor:
    """Values at places that the network computes."""
    return F.grid_sample(x, grid, mode, padding, corners)


@function
def local_response(x: Tensor, size: int, alpha: float, beta: float, bias: float) -> Tensor:
    """Each value over those of the channels beside it."""
    before = (size - 1) // 2
    around = F.pad(x * x, (0, 0) * (x.dim() - 2) + (before, size - 1 - before))
    total = torch.stack([around[:, k : k + x.shape[1]] for k in range(size)]).sum(0)
    return x / (bias + alpha / size * total) ** beta


@function
def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    """Attention [B, heads, tokens, channels]."""
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)
