"""`pintsize.sparsify`: remove single weights by masks that hold."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...storage import record as _record
from ...storage.entry import enters_network
from ...tables import Table, Tabular
from ...tasks.catalog import with_task
from ..channels.statistics import Statistics
from ..patterns import matches
from . import criteria as element_criteria
from . import selection as element_selection
from .masks import MaskStep, maskable, masked_layers, masks_of, set_masks, weight_name
from .selection import Masks, Pattern


@dataclass(frozen=True)
class LayerSparsity:
    """What is left of a layer's weight."""

    name: str
    """The parameter."""
    kept: int
    total: int

    @property
    def density(self) -> float:
        """Share of the weights that is kept."""
        return self.kept / self.total


@dataclass(frozen=True)
class SparsityResult(Tabular):
    """What `sparsify` did."""

    masks: dict[str, Tensor] = field(repr=False)
    """Parameter name → bool, shaped like the weight; True where it is kept."""
    left_alone: tuple[str, ...] = ()
    """Weights that the pattern does not fit: they stay dense."""

    @property
    def layers(self) -> list[LayerSparsity]:
        """One entry for each masked weight."""
        return [LayerSparsity(name, int(mask.sum()), mask.numel()) for name, mask in self.masks.items()]

    @property
    def density(self) -> float:
        """Share of the masked weights that is kept."""
        return sum(layer.kept for layer in self.layers) / sum(layer.total for layer in self.layers)

    def __rich__(self) -> Table:
        rows = [(one.name, f"{one.kept:,}", f"{one.total:,}", f"{one.density:.2%}") for one in self.layers]
        kept, total = sum(one.kept for one in self.layers), sum(one.total for one in self.layers)
        rows += [(name, "", "", "dense") for name in self.left_alone]
        heat = [(None, None, None, one.density) for one in self.layers] + [(None,) * 4] * len(self.left_alone)
        total_row = ("all", f"{kept:,}", f"{total:,}", f"{self.density:.2%}")
        return Table(("weight", "kept", "of", "density"), rows, total_row, heat=heat)


@enters_network
def sparsify(
    model: nn.Module,
    *,
    density: float | None = None,
    importance: str = "magnitude",
    data: Any = None,
    scope: str = "global",
    pattern: str = "element",
    ignore: Sequence[str] | str = (),
    min_density: float = 0.0,
    steps: int | None = None,
    batches: int | None = None,
    batch_size: int = 128,
    example: Any = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    task: Any = None,
    seed: int = 0,
) -> SparsityResult:
    """Remove single weights of convolutions and linear layers, in place, by masks that hold from then on.

    A weight that was removed before stays removed. On any error the model is as it was.

    Args:
        model: any network.
        density: fraction of the weights to keep, above 0 and below 1; exact to one weight.
        importance: `magnitude`, `snip`, `grasp`, `synflow`, `ecs`, `movement`, `random`, or a registered one.
        data: for criteria that need gradients: a data set (its training images are taken), a split, or an
            iterable of batches (images, labels).
        scope: `global` ranks the weights of all layers together, `local` those of each layer.
        pattern: `element`; `2:4` keeps 2 of every 4 neighbouring input channels (no density then); `4x1` removes
            blocks of 4 output by 1 input channels.
        ignore: layer paths (shell style) that stay dense.
        min_density: least fraction of each layer that is kept.
        steps: rounds in which the density falls, with new scores each; by default the criterion's (synflow 100).
        batches: how many batches of the data to look at; by default the criterion's (snip and grasp 1, others all).
        batch_size: images in each, where `data` is a data set or a split.
        example: an input, for synflow without data.
        loss: of outputs and targets; by default the task's.
        task: see `pintsize.train`.
        seed: of the order of the images and of `random`.

    Returns:
        The masks; a step is appended to the model's record.

    Raises:
        InputError: an option makes no sense, a pattern matches nothing, a layer would vanish, or scores are NaN.
        IllegalOrder: the network is quantized or clustered already.
    """
    shape = Pattern.parse(pattern)
    element_selection.check_density(density, shape)
    element_selection.check_scope(scope)
    criterion = element_criteria.find(importance)
    _record.check_order(model, MaskStep)
    names = chosen_weights(model, ignore)
    judging, data = with_task(task, data)
    source = batches_for(data, batches or criterion.batches, batch_size, seed, example)
    rounds = criterion.steps if steps is None else steps
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise InputError(f"steps={steps!r}", "it is not a number of rounds", "pass 1 or more")
    work = copy.deepcopy(model) if rounds > 1 else model
    for number in range(1, rounds + 1):
        part = None if density is None else density ** (number / rounds)
        masks, left_alone = find_masks(
            work, names, Statistics(work, source, seed, loss, judging), density=part, importance=importance, scope=scope,
            pattern=shape, min_density=min_density,
        )  # fmt: skip
        if number < rounds:
            set_masks(work, masks)
    set_masks(model, masks)
    paths = [name.rpartition(".")[0] for name in masks]
    _record.append(model, MaskStep(paths, importance, scope, str(shape), density))
    return SparsityResult(masks, left_alone)


def find_masks(
    model: nn.Module,
    names: Sequence[str],
    statistics: Statistics,
    *,
    density: float | None,
    importance: str = "magnitude",
    scope: str = "global",
    pattern: Pattern | None = None,
    min_density: float = 0.0,
    scores: dict[str, Tensor] | None = None,
) -> tuple[Masks, tuple[str, ...]]:
    """The masks for the weights `names` of `model`, which is unchanged, and the weights the pattern does not fit.

    Args:
        model: the network.
        names: weights to rank.
        statistics: for the criterion.
        density: as for `sparsify`.
        importance: as for `sparsify`.
        scope: as for `sparsify`.
        pattern: parsed; single weights by default.
        min_density: as for `sparsify`.
        scores: higher is kept; found by `importance` if they are not given.
    """
    pattern = pattern or Pattern("element")
    layers = {weight_name(path): layer for path, layer in maskable(model).items()}
    weights = {name: layers[name]._parameters["weight"] for name in names}
    if scores is None:
        scores = element_criteria.element_scores(importance, weights, statistics, scope)  # type: ignore[arg-type]
    before = masks_of(model)
    alive = {
        name: before.get(name, torch.ones_like(score, dtype=torch.bool)) for name, score in scores.items()
    }
    if pattern.kind == "element":
        assert density is not None
        return element_selection.choose(
            scores, alive, density=density, scope=scope, min_density=min_density
        ), ()
    axes = {name: (1, 0) if getattr(layers[name], "transposed", False) else (0, 1) for name in names}
    if pattern.kind == "block":
        assert density is not None
        return element_selection.choose_blocks(
            scores, alive, axes, pattern=pattern, density=density, scope=scope
        ), ()
    found = {n: element_selection.choose_n_of_m(scores[n], alive[n], pattern, axes[n][1]) for n in names}
    masks = {name: mask for name, mask in found.items() if mask is not None}
    if not masks:
        raise InputError(
            f"pattern {pattern}",
            f"no layer has a number of input channels that {pattern.second} divides",
            "use another pattern",
        )
    return masks, tuple(name for name in names if name not in masks)


def chosen_weights(model: nn.Module, ignore: Sequence[str] | str) -> list[str]:
    """Weights that may be pruned, tied ones once."""
    layers = maskable(model)
    computed = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        and module._parameters.get("weight") is None
        and module._parameters.keys() - {"bias"} | vars(module).get("_modules", {}).keys()
    }
    ignored: set[str] = set()
    for pattern in (ignore,) if isinstance(ignore, str) else ignore:
        matched = [path for path in (*layers, *computed) if matches(path, pattern)]
        if not matched:
            raise InputError(
                f"ignore={pattern!r}",
                "it matches no convolution or linear layer",
                "see model.named_modules()",
            )
        ignored.update(matched)
    for path in computed.keys() - ignored:
        raise InputError(
            f"layer {path!r}",
            "its weight is computed from other parameters (a mask, a norm), so that no single weight can be removed",
            "make it plain first: torch.nn.utils.prune.remove, remove_weight_norm, remove_spectral_norm or "
            f"parametrize.remove_parametrizations(layer, 'weight'); or pass ignore=({path!r},)",
        )
    unique: dict[int, str] = {}
    for path, layer in layers.items():
        if path not in ignored:
            unique.setdefault(id(layer._parameters["weight"]), weight_name(path))
    if not unique:
        raise InputError(
            f"model {type(model).__name__}", "no convolution or linear layer is left to prune", "ignore less"
        )
    return list(unique.values())


def batches_for(data: Any, count: int | None, batch_size: int, seed: int, example: Any = None) -> Any:
    """What criteria look at: the training images of a data set, a split, or any iterable, at most `count` batches."""
    if data is None:
        if example is None:
            return None
        images = example[0] if isinstance(example, tuple | list) else example
        return [(images, torch.zeros(len(images), dtype=torch.long))]
    return Batches(getattr(data, "train", data), count, batch_size, seed)


class Batches:
    """Shuffled batches of a split, or those of an iterable as they come; the same at each pass."""

    def __init__(self, source: Any, count: int | None, batch_size: int, seed: int) -> None:
        self._source, self._count, self._batch_size, self._seed = source, count, batch_size, seed

    def __iter__(self) -> Iterator[Any]:
        split = hasattr(self._source, "batches")
        given = (
            self._source.batches(self._batch_size, shuffle=True, seed=self._seed)
            if split
            else iter(self._source)
        )
        return itertools.islice(given, self._count)


__all__ = ["LayerSparsity", "SparsityResult", "find_masks", "masked_layers", "sparsify"]
