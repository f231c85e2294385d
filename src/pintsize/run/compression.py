"""`compress`: the whole way from a network and data to a verified file, from one recipe."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import InputError, InputTypeError
from ..measure import machine
from ..recipe.options import with_options
from ..recipe.recipe import Recipe, merge
from ..recipe.yaml import read_yaml
from ..report import ReportFile, save_figures
from ..report import write as write_report
from ..storage import logs
from ..storage.atomic import write_text
from ..storage.folder import RunFolder
from ..storage.record import origin, to_json
from ..tables import Table, stage_table
from ..tasks import Task, imitate, task_of
from ..tasks.imitation import Imitation
from ..version import __version__
from . import networks
from .stages.attention import outcome
from .stages.stages import Stages

if TYPE_CHECKING:
    from ..data import Data

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompressResult:
    """What `compress` made, and where."""

    model: nn.Module = field(repr=False)
    """The compressed network, as simulated in PyTorch."""
    path: Path
    """The file to deploy, verified against `model`."""
    report: Path
    """One self-contained HTML file."""
    folder: Path
    metrics: dict[str, Any] = field(repr=False)
    """What `metrics.json` holds: stages with accuracy (percent, test split), params, macs, bytes, latency."""

    @property
    def stages(self) -> list[dict[str, Any]]:
        """One row for each measured form of the network, the dense one first."""
        rows: list[dict[str, Any]] = self.metrics["stages"]
        return rows

    def table(self) -> str:
        """The rows as plain text."""
        return str(self.__rich__())

    def __rich__(self) -> Table:
        return stage_table(self.stages)

    def _repr_html_(self) -> str:
        return self.__rich__()._repr_html_() + ReportFile(self.report)._repr_html_()


def compress(
    model: nn.Module | str | None = None,
    data: Data | str | None = None,
    *,
    task: Task | str | Mapping[str, Any] | None = None,
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "runs/compress",
    progress: bool | None = None,
    shared: str | os.PathLike[str] | None = None,
    on_epoch: Callable[[str, dict[str, Any]], None] | None = None,
    **options: Any,
) -> CompressResult:
    """Train, prune, recover, quantize, export, verify and measure a network.

    The validation split steers; the test split is read once, at the end, on the exported files. A second
    start in the same folder does only what is not done, and goes on with a training that was killed.

    Args:
        model: a network (not changed; `epochs=0` if it is trained), a name of `pintsize.models.list()`,
            `package.module:factory`, or a `.safetensors` file; by default the recipe's.
        data: from `pintsize.data.load` or `from_loaders`, or a name that `load` takes; by default the recipe's.
        task: what the network is for, see `pintsize.train`; by default the recipe's, else that of the data.
        recipe: a YAML file, its content, or a `Recipe`.
        out: folder for all files of the run.
        progress: False for silence; else a bar on a terminal, one line per epoch elsewhere.
        shared: a folder in which runs that have stages in common, such as the training of the same dense
            network, leave them for each other.
        on_epoch: called after each epoch with the stage's name and the epoch's entry of the history; what
            it raises ends the run.
        options: single fields of the recipe by flat name (`ratio=0.5`, `epochs=3`, `recover_epochs=5`), see
            `pintsize.recipe.options.OPTIONS`. They overrule the recipe.

    Raises:
        InputError: a bad recipe, option, name, or a network that does not fit the data.
        VerificationFailed: the exported file does not compute what the network computes.
        OperationError: a stage failed; the ones before it are kept.
    """
    named = {"task": task} if isinstance(task, str) else {}
    chosen = read_recipe(model, data, recipe, {**options, **named})
    of_recipe = None if chosen.task is None else chosen.task.model_dump()
    images = _data(data, chosen, model)
    judging = task_of(of_recipe if task is None or named else task, images)
    judging.judged()
    images = images.for_task(judging)
    network = _network(model, chosen, images)
    if isinstance(judging, Imitation):
        images = imitate(images, network, judging)
    networks.check_fits(network, images)
    folder = RunFolder(out, shared=shared)
    with folder.open():
        logs.event(logger, f"{type(network).__name__} on {images.name}", event="begin", version=__version__)
        chosen.save(folder.path / "recipe.yaml")
        stages = Stages(folder, chosen, network, images, progress=progress, on_epoch=on_epoch)
        stages.run()
        metrics = _metrics(chosen, network, images, stages)
        final = stages.model(stages.forms[-1].weights)
        write_text(folder.path / "record.json", json.dumps(to_json(final), indent=1))
        write_text(folder.path / "metrics.json", json.dumps(metrics, indent=1))
        save_figures(folder.path)
        report = write_report(folder.path)
        folder.forget_others()
    return CompressResult(final, folder.path / "net.onnx", report, folder.path, metrics)


def read_recipe(
    model: nn.Module | str | None,
    data: Data | str | None,
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str] | None,
    options: Mapping[str, Any],
) -> Recipe:
    """The recipe of a run: that of the file or mapping, overruled by the arguments of `compress`."""
    source, document = (
        ("recipe", recipe) if not isinstance(recipe, str | os.PathLike) else (str(recipe), read_yaml(recipe))
    )
    if isinstance(document, Recipe):
        document = document.model_dump()
    elif document is None:
        document = {}
    elif not isinstance(document, Mapping):
        return Recipe.parse(document, source=source)
    given = {"model": model, "data": data}
    modules = {key for key, value in given.items() if value is not None and not isinstance(value, str)}
    names = {f"{key}.name": value for key, value in given.items() if isinstance(value, str)}
    document = merge({key: value for key, value in document.items() if key not in modules}, names)
    if any(value is not None for value in options.values()):
        source = f"{source} with options"
    chosen = Recipe.parse(with_options(document, options), source=source)
    for section, value in given.items():
        if value is None and getattr(chosen, section) is None:
            raise InputError(
                f"compress without {section}",
                f"neither it nor the recipe names the {section}",
                f"pass {section}= or write {section}: in the recipe",
            )
    return chosen


def _data(given: Data | str | None, recipe: Recipe, model: nn.Module | str | None) -> Data:
    """The images that are passed, or those that the recipe names, made as the network's weights expect them."""
    from ..data import Data, load

    if isinstance(given, Data):
        return given
    if recipe.data is None:
        raise InputTypeError(
            f"data of type {type(given).__name__}",
            "it is no data set",
            "pass what pintsize.data.load returns, or a name",
        )
    like = networks.expected(model if isinstance(model, nn.Module) else recipe.model)
    return load(**recipe.data.model_dump(), seed=recipe.seed, like=like)


def _network(given: nn.Module | str | None, recipe: Recipe, images: Data) -> nn.Module:
    """The network that is passed, or the one that the recipe names, with starting weights by the seed."""
    import torch

    if isinstance(given, nn.Module):
        network = given
    elif recipe.model is None:
        raise InputTypeError(
            f"model of type {type(given).__name__}", "it is no network", "pass a torch.nn.Module or a name"
        )
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network = networks.build(
                recipe.model, image_shape=images.image_shape, num_classes=len(images.classes) or None
            )
        trained = networks.starts_trained(recipe.model, len(images.classes) or None)
        if recipe.train.epochs == 0 and not trained:
            cause = (
                "its last layer is new, for other classes"
                if recipe.model.pretrained
                else "its weights are random"
            )
            raise InputError(f"model {recipe.model.name!r} with epochs=0", cause,
                             "train it (epochs above 0), or name its weights: model_weights")  # fmt: skip
    return network


def _task(images: Data) -> dict[str, Any]:
    """What the figures of a run mean, where they are no accuracies."""
    task = task_of(None, images)
    if task.key == "accuracy":
        return {}
    metric = task.judged()
    about = {"name": task.name, "metric": metric.name, "unit": metric.unit}
    return {"task": {**about, "higher_is_better": metric.higher_is_better}}


def _metrics(recipe: Recipe, network: nn.Module, images: Data, stages: Stages) -> dict[str, Any]:
    results = stages.results
    histories = {name: result["history"] for name, result in results.items() if "history" in result}
    for result in results.values():
        histories |= result.get("histories", {})
    return {
        "format": 1,
        "pintsize": __version__,
        "machine": machine(),
        "model": origin(network) or {"name": type(network).__name__, "options": {}},
        **_task(images),
        "data": {
            "name": images.name,
            "classes": len(images.classes),
            "image_shape": list(images.image_shape),
            "train": len(images.train),
            "val": len(images.val),
            "test": len(images.test),
        },
        "seed": recipe.seed,
        "recipe": recipe.model_dump(mode="json"),
        "stages": results["measure"]["stages"],
        "verification": results["verify"]["verification"],
        "histories": {name: history for name, history in histories.items() if history},
        "layers": results["measure"]["layers"],
        "rounds": next((result["rounds"] for result in results.values() if "rounds" in result), []),
        "budget": results.get("budget"),
        "attention": outcome(recipe, results),
    }
