"""Layers whose weights share few values: how they train and how they are stored.

A clustered layer is a subclass of its own class. Its `weight` stays an ordinary parameter, which holds
centroids only; which weight has which centroid is fixed. In training each weight is given the summed
gradient of its cluster, that is the gradient of the centroid (Han et al., 1510.00149, section 3.2), so an
element-wise optimizer moves the cluster as one. In a state dict a codebook and packed codes stand for
the weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CODES = "weight_codes"
"""Buffer, uint8, shaped as the weight: the cluster of each weight, within its row if there is a codebook per row."""
CODEBOOK = "weight_codebook"
"""Name in state dicts of the centroids, [rows, levels]."""
_LEVELS = "_pintsize_levels"
_ZEROS = "_pintsize_zeros"
_ROWS = "_pintsize_rows"
_AXIS = "_pintsize_axis"
_ACTIVE = "_pintsize_clustering"
_MADE: dict[type[nn.Module], type[nn.Module]] = {}


def add_clusters(layer: nn.Module, *, levels: int, zeros: bool, rows: int, axis: int = 0) -> None:
    """Make `layer` a clustered one, in place; its codes are 0 until they are set or loaded.

    Args:
        layer: with a parameter `weight`.
        levels: size of a codebook, at most 256.
        zeros: code 0 is the value 0, for good.
        rows: number of codebooks: 1, or one for each of the first dimension, or for each output channel.
        axis: the dimension of output channels, 1 in a transposed layer; only there it is not 0.
    """
    weight = _parameter(layer)
    layer.register_buffer(CODES, torch.zeros_like(weight, dtype=torch.uint8), persistent=False)
    layer.__dict__.update({_LEVELS: levels, _ZEROS: zeros, _ROWS: rows, _AXIS: axis})
    layer.__class__ = _clustered_class(type(layer))


def by_channel(weight: Tensor, layer: nn.Module) -> Tensor:
    """`weight`, shaped as that of `layer`, as [output channels, weights of each]; a view of it if it can be one."""
    if channel_axis(layer) == 0:
        return weight.reshape(len(weight), -1)
    grouped = weight.reshape(int(layer.groups), -1, weight.shape[1], weight[0, 0].numel())  # type: ignore[arg-type]
    return grouped.transpose(1, 2).flatten(2).flatten(0, 1)


def channel_axis(layer: nn.Module) -> int:
    """The dimension of the weight of `layer` that counts output channels (of a group)."""
    return 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0


def codebooks(layer: nn.Module) -> int:
    """How many codebooks `layer` has; 0 if it is not clustered."""
    return int(layer.__dict__[_ROWS]) if CODES in layer._buffers else 0


def scalable(layer: nn.Module) -> bool:
    """Whether each output channel of `layer` can take a factor: not where input channels have codebooks."""
    return codebooks(layer) < 2 or layer.__dict__.get(_AXIS, 0) == channel_axis(layer)


def part_channels(layer: nn.Module) -> None:
    """Give each output channel of a clustered layer a codebook of its own, in place; its weights stay as they are."""
    if CODES in layer._buffers:
        weight = _parameter(layer)
        layer.__dict__.update({_ROWS: len(by_channel(weight, layer)), _AXIS: channel_axis(layer)})


def codebook(layer: nn.Module) -> Tensor:
    """The centroids of a clustered layer, [rows, levels]; 0 where a code is not used."""
    return _mean(_parameter(layer).detach(), _flat_codes(layer), layer)


def with_codebook(layer: nn.Module, centroids: Tensor) -> Tensor:
    """The weight of a clustered layer, had it these centroids [rows, levels]."""
    return centroids.flatten()[_flat_codes(layer)]


def width(layer: nn.Module) -> tuple[int, int] | None:
    """Bits of a code, and bytes of the codebooks and the packed codes; None for a layer that is not clustered."""
    codes = layer._buffers.get(CODES)
    if codes is None:
        return None
    entries = layer.__dict__[_ROWS] * layer.__dict__[_LEVELS]
    return _bits(layer), entries * _parameter(layer).element_size() + -(-codes.numel() * _bits(layer) // 8)


def clustered_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Path → module of every clustered layer."""
    return {name: module for name, module in model.named_modules() if CODES in module._buffers}


def _parameter(layer: nn.Module) -> nn.Parameter:
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight


def _flat_codes(layer: nn.Module) -> Tensor:
    """Codes as indices into the flattened codebooks, shaped as the weight."""
    codes = layer._buffers[CODES]
    assert codes is not None
    rows, levels = layer.__dict__[_ROWS], layer.__dict__[_LEVELS]
    offset = torch.arange(rows, device=codes.device) * levels
    if rows > 1 and layer.__dict__.get(_AXIS, 0) == 1:  # [in, out / groups, …]
        offset = offset.view(int(layer.groups), 1, -1)  # type: ignore[arg-type]
        offset = offset.expand(-1, len(codes) // len(offset), -1).flatten(0, 1)
    else:
        offset = offset[:, None]
    flat: Tensor = codes.long() + offset.reshape(*offset.shape[: codes.dim()], *[1] * (codes.dim() - 2))
    return flat


def _total(values: Tensor, codes: Tensor, layer: nn.Module) -> Tensor:
    """Sum of `values` over each cluster, [rows · levels]."""
    size = layer.__dict__[_ROWS] * layer.__dict__[_LEVELS]
    total = torch.zeros(size, dtype=torch.float64, device=values.device)
    return total.index_add_(0, codes.flatten(), values.flatten().double())


def _mean(values: Tensor, codes: Tensor, layer: nn.Module) -> Tensor:
    """Mean of `values` over each cluster, [rows, levels]; exactly 0 for the code of zeros."""
    mean = _total(values, codes, layer) / _total(torch.ones_like(values), codes, layer).clamp(min=1)
    mean = mean.view(layer.__dict__[_ROWS], layer.__dict__[_LEVELS]).to(values.dtype)
    if layer.__dict__[_ZEROS]:
        mean[:, 0] = 0
    return mean


class _Tie(torch.autograd.Function):
    """Identity whose gradient is summed over clusters."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, codes: Tensor, layer: nn.Module) -> Tensor:
        ctx.save_for_backward(codes)
        ctx.layer = layer
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (codes,) = ctx.saved_tensors
        total = _total(gradient, codes, ctx.layer).view(-1, ctx.layer.__dict__[_LEVELS])
        if ctx.layer.__dict__[_ZEROS]:
            total[:, 0] = 0
        return total.flatten()[codes].to(gradient.dtype), None, None


class _Clustering:
    """What a clustered layer does besides what its own class does."""

    def after_optimizer_step(self: Any) -> None:
        """Make the weights of each cluster exactly one value again."""
        parent = getattr(super(), "after_optimizer_step", None)
        if parent is not None:
            parent()
        with torch.no_grad():
            codes = _flat_codes(self)
            _parameter(self).copy_(_mean(_parameter(self), codes, self).flatten()[codes])

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.__dict__[_ACTIVE] = True
        try:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.__dict__[_ACTIVE] = False

    def _save_to_state_dict(self: Any, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[misc]
        destination.pop(prefix + "weight")
        destination[prefix + CODEBOOK] = codebook(self)
        destination[prefix + CODES] = _pack(self._buffers[CODES], _bits(self))

    def _load_from_state_dict(
        self: Any, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str],
        unexpected: list[str], errors: list[str],
    ) -> None:  # fmt: skip
        values, packed = state_dict.get(prefix + CODEBOOK), state_dict.get(prefix + CODES)
        own = self._buffers[CODES]
        plain = {
            name: tensor
            for name, tensor in state_dict.items()
            if name not in (prefix + CODEBOOK, prefix + CODES)
        }
        shape = (self.__dict__[_ROWS], self.__dict__[_LEVELS])
        if values is None or packed is None:
            missing += [
                prefix + name for name, found in ((CODEBOOK, values), (CODES, packed)) if found is None
            ]
            plain[prefix + "weight"] = _parameter(self).detach()
        elif values.shape != shape or len(packed) != len(_pack(own, _bits(self))):
            errors.append(
                f"{prefix}{CODEBOOK} does not fit {shape[0]} codebooks of {shape[1]} for this weight"
            )
            plain[prefix + "weight"] = _parameter(self).detach()
        else:
            own.copy_(_unpack(packed, _bits(self), own))
            plain[prefix + "weight"] = values.to(own.device).flatten()[_flat_codes(self)]
        super()._load_from_state_dict(plain, prefix, metadata, strict, missing, unexpected, errors)  # type: ignore[misc]

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(protocol)
        return (_new, (self._pintsize_cluster_base,), *reduced[2:])


def _clustered_class(base: type[nn.Module]) -> type[nn.Module]:
    if base in _MADE:
        return _MADE[base]
    inherited: Any = getattr(base, "weight", None)
    computed = isinstance(inherited, property)  # of a masked layer

    def weight(self: nn.Module) -> Any:
        plain: Any = inherited.fget(self) if computed else self._parameters["weight"]
        if not self.__dict__.get(_ACTIVE) or not torch.is_grad_enabled() or not plain.requires_grad:
            return plain
        return _Tie.apply(plain, _flat_codes(self), self)

    members: dict[str, Any] = {
        "weight": property(weight),
        "coded_width": width,
        "_pintsize_cluster_base": base,
    }
    _MADE[base] = type(f"Clustered{base.__name__}", (_Clustering, base), members)
    return _MADE[base]


def _new(base: type[nn.Module]) -> nn.Module:
    made = _clustered_class(base)
    return made.__new__(made)


def _bits(layer: nn.Module) -> int:
    levels: int = layer.__dict__[_LEVELS]
    return max(1, (levels - 1).bit_length())


def _pack(codes: Tensor, bits: int) -> Tensor:
    """`codes` with `bits` bits each, uint8 [⌈n · bits / 8⌉]."""
    plain = codes.detach().cpu().contiguous().flatten().numpy()
    planes = np.unpackbits(plain[:, None], axis=1)[:, 8 - bits :]
    return torch.from_numpy(np.packbits(planes)).to(codes.device)


def _unpack(packed: Tensor, bits: int, like: Tensor) -> Tensor:
    planes = np.unpackbits(packed.cpu().numpy(), count=like.numel() * bits).reshape(-1, bits)
    weights = 1 << np.arange(bits - 1, -1, -1, dtype=np.int64)
    return torch.from_numpy((planes @ weights).astype(np.uint8)).view(like.shape).to(like.device)
