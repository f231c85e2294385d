"""`shrink`: a network and pictures in, a smaller file out; no labels, no training code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import InputError
from ..recipe.budget import LIMITS
from ..recipe.channels import PruneSection
from ..recipe.recipe import Recipe, merge
from ..recipe.yaml import read_yaml
from ..storage.preprocessing import preprocessing_of
from ..tables import judged
from ..tasks import Task
from . import networks
from .compression import CompressResult, compress
from .ranges import WAYS, best_ranges

if TYPE_CHECKING:
    from ..data import Data

_CHANGE = 2.0
"""Points that the outputs may change where nothing is said."""


@dataclass(frozen=True)
class ShrinkResult(CompressResult):
    """What `shrink` made, and where."""

    max_change: float | None = None
    """What was allowed."""

    @property
    def change(self) -> float:
        """What the file is worse by than the dense network on the test images, in the metric's units."""
        dense, last = (float(judged(row) or 0) for row in (self.stages[0], self.stages[-1]))
        rises = (self.metrics.get("task") or {}).get("higher_is_better", True)
        return dense - last if rises else last - dense

    @property
    def held(self) -> bool:
        """Whether that is no more than was allowed."""
        return self.max_change is None or self.change <= self.max_change

    @property
    def pruned(self) -> Path | None:
        """The file with channels pruned only; None where none went."""
        found = self.folder / "pruned.onnx"
        return found if any(row["file"] == found.name for row in self.stages) else None


def shrink(
    model: nn.Module | str | os.PathLike[str],
    images: Data | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    macs: float | None = None,
    ratio: float | None = None,
    max_change: float | None = None,
    hours: float | None = None,
    epochs: int | None = None,
    size: int | str | tuple[int, int] | None = None,
    resize: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: float = 255,
    channels: str = "rgb",
    task: Task | str | Mapping[str, Any] | None = None,
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "runs/shrink",
    progress: bool | None = None,
    on_epoch: Callable[[str, dict[str, Any]], None] | None = None,
    **options: Any,
) -> ShrinkResult:
    """Make a trained network small: channels out, recovery, eight bits, a file that is proved; the network itself judges.

    The dense network says what is right for each image, so neither labels nor loss nor metric are needed. With an amount
    (`macs`, `ratio`) that much goes; without one, the fastest network is searched for whose outputs change by no more
    than `max_change`. How activations' ranges are found is tried on the dense network, unless the recipe says it. A second
    start in the same folder goes on with the first.

    Args:
        model: an `.onnx` file, a `.safetensors` file of ours, a network, or the name of a trained one (`timm:NAME`).
        images: a folder or list of pictures, see `pintsize.data.images`; or a data set, of which images alone count unless
            `task` says otherwise.
        macs: share of the multiply-accumulates to keep.
        ratio: share of the channels to remove; 0 for quantization only, which takes minutes.
        max_change: points of fidelity, 100 × (1 − relative error of the outputs), that may be lost; of networks that
            decide on a class, points of agreement; with `task`, units of its metric. By default 2 where no amount is
            given.
        hours: that the search may take; a third of one by default.
        epochs: of recovery after pruning; 5 by default.
        size: height and width that the network sees; by default the file's.
        resize: how pictures come to it: letterbox, stretch or crop.
        mean: per channel, of the pixels after division by `scale`; by default what the file tells, else 0.
        std: likewise; else 1.
        scale: what pixels of 0 to 255 are divided by.
        channels: rgb, bgr or grey.
        task: another judge than the dense network, for `images` with targets: see `pintsize.train`.
        recipe: what else a run is to do; overruled by the arguments.
        out: folder for all files of the run.
        progress: see `compress`.
        on_epoch: see `compress`.
        options: single fields of the recipe, see `compress`.

    Raises:
        InputError: a file, image or option that does not fit.
        UnsupportedOp: the file has a node that is not understood.
        VerificationFailed: the exported file does not compute what the network computes.
    """
    from ..data import Data
    from ..data import images as images_of

    if max_change is not None and not max_change >= 0:
        raise InputError(f"max_change={max_change}", "it is no number of points", "pass e.g. 2")
    network = model if isinstance(model, nn.Module) else networks.trained(os.fspath(model))
    if not isinstance(images, Data):
        images = images_of(
            images,
            size=size,
            resize=resize,
            mean=mean,
            std=std,
            scale=scale,
            channels=channels,
            like=preprocessing_of(network),
        )
    _check_shape(network, images)
    given = {name: options.pop(name) for name in PruneSection.AMOUNTS if options.get(name) is not None}
    amounts = given | {name: value for name, value in (("macs", macs), ("ratio", ratio)) if value is not None}
    judge = _judge(network) if task is None and images.task == "imitation" else task
    document = _document(recipe)
    said = "quantize" in document or any(name in options for way in WAYS for name in way)
    chosen = _chosen(document, amounts, max_change, hours, epochs)
    if not said:
        chosen["quantize"] = best_ranges(network, images)
    made = compress(
        network,
        images,
        task=judge,
        recipe=chosen,
        out=out,
        progress=progress,
        on_epoch=on_epoch,
        **options,
    )
    allowed = (chosen.get("budget") or {}).get("max_drop") if max_change is None else max_change
    return ShrinkResult(made.model, made.path, made.report, made.folder, made.metrics, allowed)


def _check_shape(network: nn.Module, images: Data) -> None:
    """Raise where the file has another shape for good than the images."""
    ports: tuple[Any, ...] = getattr(network, "inputs", ())
    seen = [*images.image_shape]
    shape = ports[0].shape if len(ports) == 1 else None
    if shape is None or len(shape) != 4 or len(seen) != 3:
        return
    wanted = [side if isinstance(side, int) else got for side, got in zip(shape[1:], seen, strict=True)]
    if wanted == seen:
        return
    remedy = f"pass size='{wanted[1]}x{wanted[2]}'"
    if wanted[0] != seen[0]:
        remedy = "pass batches of that shape: pintsize.data.from_loaders(train, val)"
        remedy = "pass channels='grey'" if wanted[0] == 1 and seen[0] == 3 else remedy
    raise InputError(f"images of {_shape(seen)}", f"the file takes {_shape(wanted)}", remedy)


def _shape(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def _judge(network: nn.Module) -> dict[str, Any]:
    """Imitation; where results are decoded, also of the layers in front of that: boxes in pixels drown scores."""
    return {"name": "imitation", "features": 1.0 if getattr(network, "heads", ()) else 0.0}


def _chosen(
    document: Mapping[str, Any],
    amounts: Mapping[str, float],
    max_change: float | None,
    hours: float | None,
    epochs: int | None,
) -> dict[str, Any]:
    """The recipe of the run: what is usual, over it field by field what `document` says, over it the arguments."""
    own = dict(document)
    arguments: dict[str, Any] = {f"prune.{name}": value for name, value in amounts.items()}
    if amounts:
        own.pop("budget", None)
        pruned = own.pop("prune", None) or {}
        own["prune"] = {key: value for key, value in pruned.items() if key not in PruneSection.AMOUNTS}
    kept = amounts.get("ratio") == 0
    if kept:
        del own["prune"], arguments["prune.ratio"]
    searched = not amounts and own.get("prune") is None
    if searched and max_change is not None:
        arguments["budget.max_drop"] = max_change
    if searched and hours is not None:
        arguments["budget.time_limit"] = 60 * hours
    if epochs is not None and not kept:
        arguments["recover.epochs"] = epochs
    fields = {
        f"{section}.{key}" if key else section: value
        for section, part in own.items()
        for key, value in (part.items() if isinstance(part, Mapping) else (("", part),))
    }
    return merge(merge(_usual(own, searched, kept), fields), arguments)


def _usual(own: Mapping[str, Any], searched: bool, kept: bool) -> dict[str, Any]:
    """What a run does where nothing else is said: with a search, or with all channels kept."""
    found: dict[str, Any] = {"train": {"epochs": 0}}
    if not kept:
        found["recover"] = {
            "epochs": 5,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.0,
            "batch_size": 16,
            "keep": "best",
        }
    if searched:
        limited = any(name in (own.get("budget") or {}) for name in LIMITS.values())
        found["budget"] = {} if limited else {"max_drop": _CHANGE, "minimize": "latency"}
    return found


def _document(recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str] | None) -> dict[str, Any]:
    if recipe is None:
        return {}
    if isinstance(recipe, Recipe):
        return recipe.model_dump(exclude_unset=True)
    return dict(recipe if isinstance(recipe, Mapping) else read_yaml(recipe))
