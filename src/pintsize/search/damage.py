"""What each cut and each width alone does to the network's results: the sensitivity that a search goes by.

Cuts and widths are judged in one unit, the relative squared error of the logits, so that they can be
weighed against each other. Such errors add up nearly (Dong et al., 1911.03852, section 3.2).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..data import Split
from ..data.batches import run, split_batch
from ..pruning.channels.depth import without_blocks
from ..pruning.scans.parts import find_parts
from ..quant import choose_bits
from ..tasks import task_of


@dataclass(frozen=True)
class Damage:
    """Errors of the results, of one change each; recovery is not in them."""

    groups: dict[str, dict[int, float]]
    """Channel group → units removed → error, rising ever faster (see `convex`)."""
    layers: dict[str, dict[int | None, float]]
    """Layer → bits, None for floating point → error."""
    blocks: dict[str, float] = field(default_factory=dict)
    """Residual block → error without it."""

    def to_json(self) -> dict[str, Any]:
        """Plain parts; keys become text."""
        return {
            "groups": {name: {str(k): e for k, e in row.items()} for name, row in self.groups.items()},
            "layers": {
                name: {"float" if k is None else str(k): e for k, e in row.items()}
                for name, row in self.layers.items()
            },
            "blocks": self.blocks,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Damage:
        """What `to_json` gave."""
        return cls(
            {name: {int(k): e for k, e in row.items()} for name, row in document["groups"].items()},
            {
                name: {None if k == "float" else int(k): e for k, e in row.items()}
                for name, row in document["layers"].items()
            },
            document["blocks"],
        )


def damage_of(
    model: nn.Module,
    images: Split,
    *,
    example: Any,
    levels: dict[str, list[int]],
    blocks: dict[str, str],
    widths: Sequence[int | None],
    activations: int | None,
    ignore: Sequence[str],
    importance: str,
    seed: int,
) -> Damage:
    """Measure every level of every group, the lack of every block, and every width of every layer, alone.

    Args:
        model: trained; as before afterwards.
        images: on which results are compared, and which criteria may look at.
        example: an input batch.
        levels: group → numbers of removed units.
        blocks: residual block → what is left where it was.
        widths: bits a layer may have; None is floating point.
        activations: bits of what integer layers read.
        ignore: layers that stay in floating point.
        importance: criterion that says which units of a group go first.
        seed: of random criteria.
    """
    model = copy.deepcopy(model).eval()
    wanted = logits(model, images)
    groups = {}
    parts = find_parts(
        model,
        "group",
        importance,
        example=example,
        data=images,
        ignore=(),
        seed=seed,
        task=task_of(None, images),
    )
    for part in parts:
        row = {0: 0.0}
        for count in levels.get(part.name, []):
            if count:
                with part.pruned(count / part.size):
                    row[count] = relative_error(logits(model, images), wanted)
        groups[part.name] = convex(row)
    without = {}
    for path, remains in blocks.items():
        with without_blocks(model, {path: remains}):
            without[path] = relative_error(logits(model, images), wanted)
    layers: dict[str, dict[int | None, float]] = {}
    if any(widths):
        plan = choose_bits(
            model, calibration=images, widths=[w for w in widths if w is not None], activations=activations,
            bytes=1.0, ignore=ignore, example=example, progress=False,
        )  # fmt: skip
        layers = {name: {None: 0.0, **row} for name, row in plan.errors.items()}
    return Damage(groups, layers, without)


@torch.no_grad()
def logits(model: nn.Module, images: Split) -> Tensor:
    """All results of the network, one row for each image, float64."""
    found = []
    for batch in images.batches(batch_size=128):
        inputs, _ = split_batch(batch, model)
        leaves = [leaf for leaf in tree_leaves(run(model, inputs)) if isinstance(leaf, Tensor) and leaf.dim()]
        found.append(torch.cat([leaf.double().flatten(1) for leaf in leaves if leaf.is_floating_point()], 1))
    return torch.cat(found)


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """`‖got − wanted‖² / ‖wanted‖²`."""
    return float((got - wanted).square().sum() / wanted.square().sum().clamp_min(1e-300))


def convex(row: Mapping[int, float]) -> dict[int, float]:
    """Errors by removed units in which no further unit does less harm than the ones before it.

    Measured errors level off once the results are ruined; that must not make the rest of a group look free.
    """
    found, slope, at, error = {0: 0.0}, 0.0, 0, 0.0
    for count in sorted(row):
        if count:
            slope = max(slope, (row[count] - row[at]) / (count - at))
            error += slope * (count - at)
            found[count], at = error, count
    return found


def levels_of(choices: Sequence[int], most: int = 8) -> list[int]:
    """At most `most` of the allowed numbers of removed units, evenly apart, 0 and the largest among them."""
    if len(choices) <= most:
        return list(choices)
    return sorted({choices[round(k * (len(choices) - 1) / (most - 1))] for k in range(most)})
