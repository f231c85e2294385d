"""Which tensors of a network become symbols, and how they become numbers again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import entropy, kept, layers
from . import scales as pint_scales
from .layers import FEWEST

_LARGEST_KERNEL = 4096
_DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float32",
        "float16",
        "bfloat16",
        "float64",
        "int8",
        "uint8",
        "int16",
        "int32",
        "int64",
        "bool",
    )
}
_INTEGERS = tuple(pint_scales.FORMS)
"""Kinds of float32 tensors that are told by int32s in a block of planes."""
_KINDS = ("plain", "integers", "codebook", "codes", "sparse", "kept", *_INTEGERS)
_SCALES = ("plain", "codebook", "sparse")
"""Kinds of scales that need no other scale."""


@dataclass
class Entry:
    """One tensor of the state dict.

    plain: its numbers as they are. integers: symbol × scale, a tensor of the file. codebook: the
    (symbol + center)-th of `plain`. codes: of a clustered layer, packed to `bits` bits each; `shape` is
    that of the weight, and a code is the (symbol + center)-th of `order`. sparse: a symbol is the sign,
    0 for nothing; `plain` holds the magnitudes of the others, in order. multiples: of the product of two scales,
    as biases are; `plain` holds the int32 k of each, as 2k or, below 0, −2k − 1. quotients: of two scales, times
    2^e / (2k + 1), as scales of weights are; `plain` holds e · 2^24 + k for each. kept: a packed mask, whose bits
    say where the tensor `of` (a weight, or its codes) is not 0, except at some places; `plain` holds their gaps.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: str
    extra: dict[str, Any] = field(default_factory=dict)
    """integers: scale (a name), axis. codebook: center, size. codes: center, order, bits. multiples: scale, input.
    quotients: scale (of the output), input. kept: of, differences (how many)."""
    symbols: Tensor | None = None
    plain: Tensor | None = None

    @property
    def numel(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def coded(self) -> bool:
        """It has symbols."""
        return self.kind not in ("plain", "kept", *_INTEGERS)

    @property
    def largest(self) -> int:
        """Of the alphabet."""
        assert self.symbols is not None
        return int(self.symbols.abs().max())

    @property
    def four(self) -> entropy.Shape4:
        """Shape as [O, I, Y, X]: one-dimensional tensors are O, inner dimensions go to Y."""
        if not self.coded or self.numel < FEWEST:
            raise ValueError(f"{self.name} cannot have symbols")
        out, *inner = self.shape
        if len(inner) < 2:
            return out, inner[0] if inner else 1, 1, 1
        kernel = math.prod(inner[1:])
        if kernel > _LARGEST_KERNEL:  # a pass for each of its positions would take too long
            return out, inner[0] * kernel, 1, 1
        return out, inner[0], kernel // inner[-1], inner[-1]

    @property
    def plain_dtype(self) -> torch.dtype:
        """Of `plain`."""
        dtype: torch.dtype = _DTYPES["int32" if self.kind in ("kept", *_INTEGERS) else self.dtype]
        return dtype

    @property
    def plain_numel(self) -> int:
        """How many numbers `plain` has; known for sparse tensors once their symbols are."""
        if self.kind == "codebook":
            return int(self.extra["size"])
        if self.kind == "kept":
            return int(self.extra["differences"])
        if self.kind == "sparse":
            if self.symbols is None:
                raise ValueError(f"the symbols of {self.name[:80]!r} come too late")
            return int(self.symbols.count_nonzero())
        return self.numel

    def to_json(self) -> list[Any]:
        """What the header says."""
        return [self.name, self.dtype, list(self.shape), self.kind, self.extra]

    @classmethod
    def from_json(cls, fields: Any) -> Entry:
        """The entry that `to_json` wrote.

        Raises:
            ValueError, TypeError: it did not.
        """
        name, dtype, shape, kind, extra = fields
        sound = all(
            isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**40 for size in shape
        )
        known = isinstance(name, str) and dtype in _DTYPES and kind in _KINDS and isinstance(extra, dict)
        if not sound or not known or len(shape) > 8:
            raise ValueError(f"tensor {str(name)[:80]!r} is described wrongly")
        if kind == "codebook" and not 0 < extra["size"] <= entropy.LARGEST + 1:
            raise ValueError(f"the codebook of {name[:80]!r} has a wrong size")
        if kind == "codes" and not (
            dtype == "uint8" and 1 <= extra["bits"] <= 8 and set(extra["order"]) <= set(range(256))
        ):
            raise ValueError(f"the codes of {name[:80]!r} are described wrongly")
        if kind == "kept" and not (
            dtype == "uint8" and len(shape) == 1 and 0 <= extra["differences"] <= 8 * shape[0]
        ):
            raise ValueError(f"the mask {name[:80]!r} is described wrongly")
        if kind in _INTEGERS and (dtype != "float32" or not math.prod(shape)):
            raise ValueError(f"{name[:80]!r} cannot hold {kind}")
        return cls(name, dtype, tuple(shape), kind, extra)


def as_entries(model: nn.Module) -> tuple[list[Entry], dict[str, str]]:
    """Every tensor of `model` in the form that codes best, and the names of tied ones → the first name."""
    state = model.state_dict()
    integers, codes, units = layers.integer_weights(model), layers.codes(model), pint_scales.units(model)
    entries: list[Entry] = []
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, value in state.items():
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        tensor = value.detach().cpu().contiguous()
        entry = Entry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), "plain")
        if name in codes:
            entry.shape, entry.kind = tuple(codes[name][0].shape), "codes"
            entry.symbols, entry.extra = codes[name]
        elif name in integers:
            entry.kind, entry.symbols, entry.extra = "integers", *integers[name]
        elif not (
            _as_integers(entry, tensor, state, units)
            or _as_codebook(entry, tensor)
            or _as_sparse(entry, tensor)
        ):
            entry.plain = tensor
        entries.append(entry)
    by_name = {entry.name: entry for entry in entries}
    for entry in entries:
        _as_kept(entry, by_name, aliases)
    return entries, aliases


def four_dimensional(entry: Entry) -> np.ndarray[Any, Any]:
    """The symbols as [O, I, Y, X]."""
    assert entry.symbols is not None
    return np.asarray(entry.symbols.numpy().astype(np.int16).reshape(entry.four))


def restore(entries: list[Entry]) -> dict[str, Tensor]:
    """The state dict.

    Raises:
        ValueError, KeyError: the entries contradict each other.
    """
    by_name = {entry.name: entry for entry in entries}
    if len(by_name) != len(entries):
        raise ValueError("two tensors have the same name")
    return {entry.name: _restored(entry, by_name) for entry in entries}


def _restored(entry: Entry, by_name: dict[str, Entry]) -> Tensor:
    if entry.kind == "plain":
        return _plain(entry).reshape(entry.shape)
    if entry.kind in _INTEGERS:
        scales = (_scale(by_name, entry.extra[key], within=entry.kind) for key in ("scale", "input"))
        _, make = pint_scales.FORMS[entry.kind]
        return make(_plain(entry), *scales).reshape(entry.shape)
    if entry.kind == "kept":
        return _mask(entry, by_name)
    symbols = entry.symbols
    if symbols is None:
        raise ValueError(f"no block holds the symbols of {entry.name[:80]!r}")
    if entry.kind == "codebook":
        values, index = _plain(entry), symbols.long() + int(entry.extra["center"])
        if int(index.min()) < 0 or int(index.max()) >= len(values):
            raise ValueError(f"a symbol of {entry.name[:80]!r} is not in its codebook")
        return values[index]
    if entry.kind == "codes":
        return _packed(_codes_of(entry, symbols), int(entry.extra["bits"]))
    if entry.kind == "sparse":
        found = torch.zeros(entry.shape, dtype=entry.plain_dtype)
        found[symbols != 0] = _plain(entry)
        return torch.where(symbols < 0, -found, found)
    scale, axis = _scale(by_name, entry.extra["scale"]), int(entry.extra["axis"])
    if tuple(scale.shape) != (() if axis < 0 else entry.shape[axis : axis + 1]):
        raise ValueError(f"the scale of {entry.name[:80]!r} does not fit it")
    if axis >= 0:
        scale = scale.view([-1 if dim == axis else 1 for dim in range(symbols.dim())])
    return symbols.to(entry.plain_dtype) * scale


def _scale(by_name: dict[str, Entry], name: str, *, within: str = "integers") -> Tensor:
    """What a tensor of the kind `within` is multiplied by."""
    owner = by_name[name]
    kinds = _SCALES if within == "quotients" else (*_SCALES, "quotients")
    if owner.kind not in kinds or owner.dtype != "float32":
        raise ValueError(f"{name[:80]!r} cannot be a scale")
    return _restored(owner, by_name)


def _mask(entry: Entry, by_name: dict[str, Entry]) -> Tensor:
    """A packed mask."""
    owner = by_name[entry.extra["of"]]
    if owner.kind == "kept" or entry.shape != (-(-owner.numel // 8),):
        raise ValueError(f"{owner.name[:80]!r} cannot tell the mask {entry.name[:80]!r}")
    gaps = _plain(entry) if entry.plain_numel else torch.empty(0, dtype=torch.int32)
    return kept.packed(_not_zero(owner, by_name), gaps)


def _not_zero(owner: Entry, by_name: dict[str, Entry]) -> Tensor:
    """Where a tensor is not 0; of the codes of a clustered layer, which code."""
    if owner.kind != "codes":
        return _restored(owner, by_name) != 0
    if owner.symbols is None:
        raise ValueError(f"no block holds the symbols of {owner.name[:80]!r}")
    return _codes_of(owner, owner.symbols) != 0


def _codes_of(entry: Entry, symbols: Tensor) -> Tensor:
    """The codes of a clustered layer."""
    order, index = torch.tensor(entry.extra["order"]), symbols.long() + int(entry.extra["center"])
    if int(index.min()) < 0:
        raise ValueError(f"a symbol of {entry.name[:80]!r} is not a code")
    return order[index]


def _plain(entry: Entry) -> Tensor:
    if entry.plain is None:
        raise ValueError(f"no block holds the numbers of {entry.name[:80]!r}")
    return entry.plain


def _as_integers(entry: Entry, tensor: Tensor, state: dict[str, Tensor], units: pint_scales.Units) -> bool:
    """Turn biases and scales of quantized layers into integers, where they are such; whether they are."""
    if tensor.dtype != torch.float32 or not tensor.numel() or not tensor.isfinite().all():
        return False
    for kind, scale, source in units.get(entry.name, ()):
        find, _ = pint_scales.FORMS[kind]
        entry.plain = find(tensor, state[scale].detach().cpu(), state[source].detach().cpu())
        if entry.plain is not None:
            entry.kind, entry.extra = kind, {"scale": scale, "input": source}
            return True
    return False


def _as_kept(entry: Entry, by_name: dict[str, Entry], aliases: dict[str, str]) -> None:
    """Turn a mask into what the zeros of its weight do not tell, where that is less."""
    if entry.plain is None or entry.dtype != "uint8":
        return
    for name in kept.owners(entry.name):
        owner = by_name.get(aliases.get(name, name))
        gaps = None if owner is None else kept.differences(entry.plain, _not_zero(owner, by_name))
        if owner is not None and gaps is not None:
            entry.kind, entry.extra = "kept", {"of": owner.name, "differences": len(gaps)}
            entry.plain = gaps if len(gaps) else None
            return


def _packed(codes: Tensor, bits: int) -> Tensor:
    """`codes` with `bits` bits each, one after the other, the highest bit first; uint8."""
    planes = np.unpackbits(codes.flatten().numpy().astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]
    return torch.from_numpy(np.packbits(planes))


def _as_codebook(entry: Entry, tensor: Tensor) -> bool:
    """Turn a tensor of few different values into indices; whether it is one."""
    if tensor.dtype != torch.float32 or tensor.numel() < FEWEST or not tensor.isfinite().all():
        return False
    bits, index = tensor.view(torch.int32).unique(return_inverse=True)
    if not 1 < len(bits) <= min(entropy.LARGEST + 1, tensor.numel() // 8):
        return False
    values = bits.view(torch.float32)
    order = values.argsort(stable=True)
    rank = order.argsort()
    zero = (values[order] == 0).nonzero()
    center = int(zero[0]) if len(zero) else len(bits) // 2
    entry.kind, entry.symbols, entry.plain = (
        "codebook",
        (rank[index] - center).to(torch.int16),
        values[order].clone(),
    )
    entry.extra = {"center": center, "size": len(bits)}
    return True


def _as_sparse(entry: Entry, tensor: Tensor) -> bool:
    """Turn a tensor that is mostly zeros into signs and magnitudes; whether it is one."""
    if tensor.dtype != torch.float32 or tensor.numel() < FEWEST or not tensor.isfinite().all():
        return False
    zeros = tensor == 0
    few = int(zeros.sum())
    if not few > 0.2 * tensor.numel() or few == tensor.numel() or tensor[zeros].signbit().any():
        return False
    entry.kind, entry.symbols, entry.plain = "sparse", tensor.sign().to(torch.int16), tensor[~zeros].abs()
    return True
