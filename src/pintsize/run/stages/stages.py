"""A run and its stages: each a class in a module of this package, found by its name in a registry.

A stage goes from files of the run folder to files of it. It says which section of the recipe asks for it, what decides
its result, which files it writes, how it makes them, and how all that is rehearsed before hours of training.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from ...data import Data, Split
from ...data.batches import example_of
from ...data.digest import data_digest
from ...errors import InputError, OperationError, UnsupportedOp
from ...pruning import UNREGULARIZED, Unregularized
from ...quant import reestimate_norms
from ...recipe.recipe import Recipe
from ...recipe.section import values_of
from ...recipe.training import RecoverSection, TrainSection
from ...registry import Registry
from ...storage.digests import in_order, model_digest
from ...storage.folder import RunFolder
from ...storage.network_file import save
from ...storage.replay import replay
from ...tasks import task_of
from ...tasks.catalog import kept_under
from ...training import Callback, evaluate, train
from ..epochs import Epochs
from ..forms import Form, named_forms

_JUDGED_IMAGES = 1024
"""Training images that pruning criteria may look at."""
DENSE, CUT, PRUNED = "dense.safetensors", "checkpoints/cut.safetensors", "pruned.safetensors"
QUANTIZED = "quantized.safetensors"


class Stage:
    """One stage of a run. What it does depends on the recipe and on the files of earlier stages alone."""

    name: ClassVar[str]
    place: ClassVar[float]
    """Stages follow each other by it; see `pintsize.recipe.section.Entry`."""
    section: ClassVar[str | None] = None
    """Of the recipe, that asks for it."""
    instead_of: ClassVar[frozenset[str]] = frozenset()
    """Stages that do not take place beside this one."""
    kind: ClassVar[str | None] = None
    """What the network is after it, if that changes: pruned or sparse."""
    shared: ClassVar[bool] = True
    """Whether runs take its result from each other; not what is quick, or measured on this machine."""

    def wanted(self, recipe: Recipe) -> bool:
        """Whether the recipe asks for it."""
        return self.section is not None and getattr(recipe, self.section) is not None

    def file(self, recipe: Recipe) -> str | None:
        """The file of the network that it leaves, if it leaves one."""
        return None

    def forms(self, recipe: Recipe, kind: str) -> list[tuple[str, str]]:
        """Label and stem of each form of the network that is to be exported and measured because of it.

        Args:
            recipe: of the run.
            kind: dense, pruned or sparse: what the network is by then.
        """
        return []

    def packs(self, recipe: Recipe) -> bool:
        """Whether it leaves weights that a `.pint` file holds in fewer bytes than ONNX."""
        return False

    def needs(self, run: Stages) -> None:
        """Raise for what is missing on this machine: called before anything else is done."""

    def rehearse(self, run: Stages, model: nn.Module) -> None:
        """Go its way with an untrained network, which may be changed; raise for what cannot be done.

        Raises:
            InputError: a setting that does not fit the network.
            UnsupportedOp: an operation that is not understood.
        """

    def inputs(self, run: Stages) -> Any:
        """What decides its result, JSON-able, besides the stages before it: by default its section."""
        assert self.section is not None
        return settings_of(getattr(run.recipe, self.section))

    def outputs(self, run: Stages) -> list[str]:
        """The files that it writes: by default the network's."""
        file = self.file(run.recipe)
        return [] if file is None else [file]

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        """Write the files; the result, JSON-able."""
        raise AssertionError(f"stage {self.name} makes nothing")

    def carry_out(self, run: Stages) -> None:
        """Do it, unless it is done."""
        run.results[self.name] = run.folder.stage(
            self.name, inputs=self.inputs(run), outputs=self.outputs(run), run=lambda key: self.make(run, key),
            shared=self.shared,
        )  # fmt: skip
        if (file := self.file(run.recipe)) is not None:
            run.made_by[file] = self.name


STAGES: Registry[Stage] = Registry("stage")
"""By name."""


def stage(cls: type[Stage]) -> type[Stage]:
    """Class decorator: make a stage known."""
    STAGES.add(cls.name, cls())
    return cls


def stages_of(recipe: Recipe, *, without: Stage | None = None) -> list[Stage]:
    """The stages that a recipe asks for, in order; `without` is the one that asks which others there are."""
    every = sorted(STAGES.values(), key=lambda one: one.place)
    wanted = [one for one in every if one is not without and one.wanted(recipe)]
    replaced = {name for one in wanted for name in one.instead_of}
    return [one for one in wanted if one.name not in replaced]


def forms_of(recipe: Recipe) -> list[Form]:
    """The forms of the network that a run exports and measures, in order; the last one is `net.onnx`."""
    found, kind = [("dense fp32", "dense")], "dense"
    for one in stages_of(recipe):
        kind = one.kind or kind
        found += one.forms(recipe, kind)
    return named_forms(found)


def packed(recipe: Recipe) -> bool:
    """Whether `.pint` files are written, too: zeros save nothing in ONNX, and it has no kernels below 8 bits."""
    return any(one.packs(recipe) for one in stages_of(recipe))


class Stages:
    """One run: `recipe` carried out on `model` and `data` in `folder`, whose lock is held.

    Args:
        folder: open.
        recipe: says what to do.
        model: the dense network to start from; not changed.
        data: train fits, val steers, test is read once, in `measure`.
        progress: as for `pintsize.train`.
        on_epoch: called with the stage's name and each epoch's entry of the history.
    """

    def __init__(
        self,
        folder: RunFolder,
        recipe: Recipe,
        model: nn.Module,
        data: Data,
        *,
        progress: bool | None,
        on_epoch: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        self.folder, self.recipe, self.data, self.progress = folder, recipe, data, progress
        self._start, self._on_epoch = model, on_epoch
        self._loaded: dict[str, nn.Module] = {}
        self.task = task_of(None, data)
        self.example = example_of(data.val, model)
        self.results: dict[str, dict[str, Any]] = {}
        self.stages = stages_of(recipe)
        self.forms = forms_of(recipe)
        self.made_by: dict[str, str] = {}
        """File of a network → the stage that left it."""

    def run(self) -> None:
        """All stages in order; those that are done already are not repeated."""
        for one in self.stages:
            one.needs(self)
        self.check_teacher()
        if self.recipe.train.epochs:
            self.rehearse()
        for one in self.stages:
            one.carry_out(self)

    def rehearse(self) -> None:
        """Go the way once with the untrained network: what cannot be done is told before hours of training.

        Raises:
            InputError: a setting that does not fit the network.
            UnsupportedOp: an operation that pruning or quantization does not understand.
        """
        model = copy.deepcopy(self._start)
        try:
            for one in self.stages:
                one.rehearse(self, model)
        except UnsupportedOp:
            raise
        except OperationError:
            return  # untrained weights may be unlike trained ones: the stage itself will tell

    def origin(self) -> list[Any]:
        """What the run starts from, in short."""
        task = kept_under(self.task).values()
        return [model_digest(self._start), data_digest(self.data), self.recipe.seed, *task]

    def before(self, stage: Stage) -> nn.Module:
        """A copy of the network that the stages before `stage` left."""
        files = [one.file(self.recipe) for one in self.stages[: self.stages.index(stage)]]
        return copy.deepcopy(self.model([file for file in files if file is not None][-1]))

    def teacher(self, section: RecoverSection) -> nn.Module | None:
        """The dense network, if `section` learns from it."""
        # an imitation is taught by its targets already; what a network loses by itself no teacher has a part in
        alone = self.task.name == "imitation" or self.task.own_step
        return copy.deepcopy(self.model(DENSE)) if section.distill and not alone else None

    def check_teacher(self) -> None:
        """Refuse a teacher that was asked for and would teach nothing.

        Raises:
            InputError: the networks of this task compute their loss themselves.
        """
        for section in (self.recipe.recover, self.recipe.qat):
            if (
                section is not None
                and section.distill
                and "distill" in section.model_fields_set
                and self.task.own_step
            ):
                raise InputError(
                    f"distill with task {self.task.name!r}", "the network computes its loss itself",
                    "leave it out; or give the task loss= and the core of the network",
                )  # fmt: skip

    @property
    def recovery(self) -> RecoverSection:
        """How networks are trained after pruning."""
        found: RecoverSection = self.recipe.recover or RecoverSection()
        return found

    def model(self, file: str) -> nn.Module:
        """The network in a file of the folder: what every later stage uses is what the file holds."""
        if file not in self._loaded:
            model = replay(self.folder.path / file, copy.deepcopy(self._start).cpu())
            self._loaded[file] = model.eval()
        return self._loaded[file]

    def norms_anew(self, model: nn.Module, *, augment: bool) -> nn.Module:
        """With the statistics of the weights as they ended up, on images as they were in training, if that serves."""
        measured = copy.deepcopy(model)
        images = self.some_training_images(4096).batches(shuffle=True, augment=augment, seed=self.recipe.seed)
        reestimate_norms(measured, images, images=None)
        val, metric = self.data.val, self.task.judged()
        return measured if metric.worse(evaluate(model, val), evaluate(measured, val)) < 0 else model

    def some_training_images(self, count: int = _JUDGED_IMAGES) -> Split:
        """A sample for criteria and ranges, always the same."""
        return self.data.train.at_most(count, self.recipe.seed)

    def fit(
        self,
        model: nn.Module,
        name: str,
        key: str,
        section: TrainSection,
        *,
        teacher: nn.Module | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> list[dict[str, Any]]:
        """Train, resumable; the history."""
        given = section.model_dump(include=set(TrainSection.model_fields))
        options, more = training_of(given, self.data)
        if isinstance(section, RecoverSection) and teacher is not None:
            options |= {"distill_weight": section.distill_weight, "temperature": section.temperature}
        if section.epochs == 0:
            return []
        mine = self.checkpoint(name, key)
        history = train(
            model,
            self.data,
            **options,
            seed=self.recipe.seed,
            teacher=teacher,
            checkpoint=mine,
            log_dir=self.folder.path / "tensorboard" / name,
            progress=self.progress,
            callbacks=[*callbacks, *more, Epochs(name, self._on_epoch)],
        )
        delete(mine)
        return list(history)

    def checkpoint(self, name: str, key: str) -> Path:
        """Where a training of this recipe is resumed from; those of others are deleted."""
        checkpoints = self.folder.path / "checkpoints"
        mine = checkpoints / f"{name}-{key[:16]}"
        for stale in checkpoints.glob(f"{name}-*"):  # of another recipe: nobody can go on from it
            if stale != mine:
                delete(stale)
        return mine

    def start(self) -> nn.Module:
        """The network before any training."""
        return copy.deepcopy(self._start)

    def keep(self, model: nn.Module, file: str, **result: Any) -> dict[str, Any]:
        """Save a form of the network; `result` with its accuracy."""
        save(model, self.folder.path / file)
        self._loaded.pop(file, None)
        return {**self.figures(evaluate(self.model(file), self.data.val), "val_"), **result}

    def figures(self, value: float | None, prefix: str = "") -> dict[str, Any]:
        """What a row says of how good a network is: its accuracy, or the metric of the task with its name and unit."""
        found: dict[str, Any] = {f"{prefix}{self.task.key}": value}
        if self.task.key != "accuracy":
            metric = self.task.judged()
            found |= {"metric_name": metric.name, "metric_unit": metric.unit}
        return found


def settings_of(section: Any) -> dict[str, Any]:
    """A section of the recipe as what decides a stage."""
    return in_order(values_of(section))


def training_of(section: Mapping[str, Any], data: Any) -> tuple[dict[str, Any], list[Callback]]:
    """A recipe's section of training as options of `pintsize.train` and callbacks: what `regularize` means."""
    settings = {key: value for key, value in section.items() if key != "regularize"}
    if section["regularize"]:
        return settings, []
    return settings | UNREGULARIZED, [Unregularized(data)]


def delete(path: Path) -> None:
    """A checkpoint, which is a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
