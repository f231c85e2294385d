"""The pruning plan: what is removed from which parameter. It can be stored, replayed and inverted into masks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...graph.groups import Removed
from ...graph.surgery import Attributes, cut
from ...storage import record as _record
from ...tables import Table


@_record.register
@dataclass(frozen=True)
class PruneStep(_record.Step):
    """Channels cut out of a network."""

    kind: ClassVar[str] = "prune"
    may_follow: ClassVar[frozenset[str]] = frozenset({"prune", "depth", "mask"})
    reason: ClassVar[str] = "the scales and codebooks that it stored belong to the channels as they were"

    removed: dict[str, dict[str, list[int]]]
    """Parameter → dimension (as text, for JSON) → sorted indices."""
    attributes: dict[str, dict[str, Any]]
    """Module → attribute → value after the cut."""
    biases: list[str] = field(default_factory=list)
    """Layers that got a bias, which holds what removed channels used to add."""

    def apply(self, model: nn.Module) -> None:
        """Cut the same indices out of the plain model."""
        plan = PruningPlan.from_json(
            {"removed": self.removed, "attributes": self.attributes, "biases": self.biases}
        )
        plan.apply(model)


@dataclass(frozen=True)
class PruningPlan:
    """What `pintsize.prune` removed, in terms of the network before it."""

    removed: Removed
    """Parameter name → dimension → sorted list of removed indices."""
    attributes: Attributes = field(default_factory=dict)
    """Module path → attribute → value in the smaller network."""
    biases: tuple[str, ...] = ()
    """Layers that got a bias."""
    before: Mapping[str, float] = field(default_factory=dict)
    """Parameters, MACs and channels of the network before."""
    after: Mapping[str, float] = field(default_factory=dict)
    """The same after."""
    error: float = 0.0
    """Largest difference between the smaller network and the zeroed original, over the largest output."""
    constants: Mapping[str, float] = field(default_factory=dict)
    """Layer → largest error, in units of its output's standard deviation, that folding the constants of
    removed channels left in it; 0 where folding was exact."""
    notes: tuple[str, ...] = ()
    """What the user should know, e.g. a target that rounding kept from being met closer."""

    def step(self) -> PruneStep:
        """The plan as a step of the record."""
        removed = {
            name: {str(dim): list(ids) for dim, ids in dims.items()} for name, dims in self.removed.items()
        }
        return PruneStep(
            removed, {path: dict(values) for path, values in self.attributes.items()}, list(self.biases)
        )

    def apply(self, model: nn.Module) -> None:
        """Cut the same channels out of another instance of the network, in place.

        Raises:
            InputError: the plan does not fit; `model` is as before.
        """
        from ...graph.surgery import Undo

        undo = Undo()
        try:
            cut(model, self.removed, self.attributes, undo)
            for path in self.biases:  # made for the cut layer, so of its size
                add_bias(model.get_submodule(path), undo)
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            undo()
            raise InputError(
                "pruning plan",
                f"it does not fit {type(model).__name__} ({error})",
                "apply it to the network it was made for, before any other pruning",
            ) from error

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """The plan inverted into masks for the dense network: 1 where a weight is kept, 0 where it was removed."""
        tensors = {**dict(model.named_buffers()), **dict(model.named_parameters(remove_duplicate=False))}
        found = {}
        for name, dims in self.removed.items():
            if name not in tensors:
                raise InputError(
                    f"pruning plan, parameter {name}",
                    f"{type(model).__name__} has no such parameter",
                    "pass the dense network the plan was made for",
                )
            mask = torch.ones_like(tensors[name])
            for dim, indices in dims.items():
                mask.index_fill_(dim, torch.tensor(indices, device=mask.device), 0)
            found[name] = mask
        return found

    def mask(self, model: nn.Module) -> None:
        """Zero in the dense `model`, in place, what the plan removes, instead of cutting it out."""
        tensors = {**dict(model.named_buffers()), **dict(model.named_parameters(remove_duplicate=False))}
        with torch.no_grad():
            for name, mask in self.masks(model).items():
                tensors[name].mul_(mask)

    def then(self, later: PruningPlan) -> PruningPlan:
        """This plan and one made on its result, as one plan for the network before both."""
        removed: dict[str, dict[int, list[int]]] = {
            n: {d: list(i) for d, i in dims.items()} for n, dims in self.removed.items()
        }
        for name, dims in later.removed.items():
            for dim, indices in dims.items():
                gone = removed.setdefault(name, {}).get(dim, [])
                removed[name][dim] = sorted([*gone, *_original(indices, gone)])
        for path in self.biases:  # the network before both has no such bias that could be cut
            removed.pop(f"{path}.bias", None)
        attributes = {path: dict(values) for path, values in self.attributes.items()}
        for path, values in later.attributes.items():
            attributes.setdefault(path, {}).update(values)
        return PruningPlan(
            removed,
            attributes,
            tuple(dict.fromkeys((*self.biases, *later.biases))),
            self.before,
            later.after,
            max(self.error, later.error),
            {**self.constants, **later.constants},
            (*self.notes, *later.notes),
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-able; `from_json` reads it."""
        step = self.step()
        return {
            "removed": step.removed,
            "attributes": step.attributes,
            "biases": step.biases,
            "before": dict(self.before),
            "after": dict(self.after),
            "error": self.error,
            "constants": dict(self.constants),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | str) -> PruningPlan:
        """The plan that `to_json` wrote.

        Raises:
            InputError: the document is not a plan.
        """
        try:
            fields = dict(json.loads(document) if isinstance(document, str) else document)
            removed = {
                str(name): {int(dim): [int(i) for i in ids] for dim, ids in dims.items()}
                for name, dims in fields.pop("removed").items()
            }
            attributes = {
                str(path): {str(key): tuple(v) if isinstance(v, list) else v for key, v in values.items()}
                for path, values in fields.pop("attributes").items()
            }
            biases, notes = tuple(fields.pop("biases", ())), tuple(fields.pop("notes", ()))
            return cls(removed, attributes, biases, notes=notes, **fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                "pruning plan",
                f"it does not parse ({type(error).__name__}: {error})",
                "pass what PruningPlan.to_json wrote",
            ) from error

    def __rich__(self) -> Table:
        """What is removed from each parameter."""
        rows = [
            (
                name,
                str(dim),
                str(len(indices)),
                ", ".join(map(str, indices[:8])) + (" …" if len(indices) > 8 else ""),
            )
            for name, dims in self.removed.items()
            for dim, indices in dims.items()
        ]
        return Table(
            ("parameter", "dimension", "removed", "indices"), rows, caption=str(self).replace("\n", "; ")
        )

    def _repr_html_(self) -> str:
        return self.__rich__()._repr_html_()

    def __str__(self) -> str:
        lines = [
            f"{key}: {self.before[key]:,.0f} → {self.after[key]:,.0f} ({self.after[key] / self.before[key]:.1%} kept)"
            for key in self.after
            if self.before.get(key)
        ]
        inexact = [f"{layer} ±{error:.2g}σ" for layer, error in self.constants.items() if error > 0]
        if inexact:
            lines.append(f"constants of removed channels folded approximately: {', '.join(inexact[:5])}")
        return "\n".join([*lines, *self.notes])


def _original(indices: list[int], gone: list[int]) -> list[int]:
    """Indices into what was left after `gone`, as indices into the whole."""
    if not indices:
        return []
    left: list[int] = []
    removed, position = set(gone), 0
    last = max(indices)
    while len(left) <= last:
        if position not in removed:
            left.append(position)
        position += 1
    return [left[i] for i in indices]


def add_bias(layer: nn.Module, undo: Any = None) -> nn.Parameter:
    """Give a layer without bias one of zeros."""
    if getattr(layer, "bias", None) is not None:
        assert isinstance(layer.bias, nn.Parameter)
        return layer.bias
    weight = layer.weight
    assert isinstance(weight, Tensor)
    transposed = getattr(layer, "transposed", False)
    size = weight.shape[1] * int(getattr(layer, "groups", 1)) if transposed else weight.shape[0]
    bias = nn.Parameter(torch.zeros(size, dtype=weight.dtype, device=weight.device))
    if undo is not None:
        undo.on(lambda: layer.register_parameter("bias", None))
    layer.bias = bias
    return bias
