"""`shrink`: a network and pictures in, a smaller file out; no labels, no training code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import InputError
from ..recipe.channels import PruneSection
from ..recipe.recipe import Recipe, merge
from ..recipe.yaml import read_yaml
from ..storage.preprocessing import preprocessing_of
from ..tasks import Task
from . import networks
from .compression import CompressResult, compress

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
        """Points of the metric that the file differs from the dense network by, on the test images."""
        return float(self.stages[0]["metric"] - self.stages[-1]["metric"])

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
    epochs: int = 5,
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
    than `max_change`. A second start in the same folder goes on with the first.

    Args:
        model: an `.onnx` file, a `.safetensors` file of ours, a network, or the name of a trained one (`timm:NAME`).
        images: a folder or list of pictures, see `pintsize.data.images`; or a data set, of which images alone count unless
            `task` says otherwise.
        macs: share of the multiply-accumulates to keep.
        ratio: share of the channels to remove; 0 for quantization only, which takes minutes.
        max_change: points of fidelity, 100 × (1 − relative error of the outputs), that may be lost; of networks that
            decide on a class, points of agreement. By default 2 where no amount is given.
        hours: that the search may take; a third of one by default.
        epochs: of recovery after pruning.
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
    given = {name: options.pop(name) for name in PruneSection.AMOUNTS if options.get(name) is not None}
    amounts = given | {name: value for name, value in (("macs", macs), ("ratio", ratio)) if value is not None}
    judged = _judge(network) if task is None and images.task == "imitation" else task
    document = merge(_recipe(amounts, max_change, hours, epochs), _document(recipe))
    made = compress(
        network,
        images,
        task=judged,
        recipe=document,
        out=out,
        progress=progress,
        on_epoch=on_epoch,
        **options,
    )
    allowed = _CHANGE if max_change is None and not amounts else max_change
    return ShrinkResult(made.model, made.path, made.report, made.folder, made.metrics, allowed)


def _judge(network: nn.Module) -> dict[str, Any]:
    """Imitation; where results are decoded, also of the layers in front of that: boxes in pixels drown scores."""
    return {"name": "imitation", "features": 1.0 if getattr(network, "heads", ()) else 0.0}


def _recipe(
    amounts: Mapping[str, float], max_change: float | None, hours: float | None, epochs: int
) -> dict[str, Any]:
    recovery = {
        "epochs": epochs,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "batch_size": 16,
        "keep": "best",
    }
    # far values of activations are worth less than fine steps, and biases make good what is left: see docs/results.md
    bits = {"method": "percentile", "correct_bias": True}
    found: dict[str, Any] = {"train": {"epochs": 0}, "quantize": bits}
    if not amounts:
        limit = {} if hours is None else {"time_limit": 60 * hours}
        change = _CHANGE if max_change is None else max_change
        return found | {"budget": {"max_drop": change, "minimize": "latency", **limit}, "recover": recovery}
    if amounts.get("ratio") == 0:
        return found
    return found | {"prune": dict(amounts), "recover": recovery}


def _document(recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str] | None) -> dict[str, Any]:
    if recipe is None:
        return {}
    if isinstance(recipe, Recipe):
        return recipe.model_dump(exclude_unset=True)
    return dict(recipe if isinstance(recipe, Mapping) else read_yaml(recipe))
