"""The stages of a compression, each a short function from files of the run folder to files of it."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ...data import Data, Split
from ...data.digest import data_digest
from ...deploy import export
from ...deploy.openvino import runtime as openvino
from ...errors import OperationError, UnsupportedOp
from ...pruning import PruningPlan, prune, prune_by_attention
from ...quant import QuantizationAware, fold_batchnorm, quantize, reestimate_norms
from ...recipe.quantization import QuantizeSection
from ...recipe.recipe import PruneSection, Recipe, RecoverSection, TrainSection
from ...storage.digests import in_order, model_digest
from ...storage.folder import RunFolder
from ...storage.network_file import save
from ...storage.replay import replay
from ...training import Callback, evaluate, train
from ..epochs import Epochs
from ..forms import before_quantize, forms_of, packed
from . import attention as attention_stages
from . import closing as closing_stages
from . import sparse as sparse_stages

_JUDGED_IMAGES = 1024
"""Training images that pruning criteria may look at."""
_OWN = {"export", "verify", "measure"}
"""Stages that runs do not take from each other: quick, or measured on this machine."""


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
        self.example = next(iter(data.val.batches(batch_size=2)))[0]
        self.results: dict[str, dict[str, Any]] = {}
        self.forms = forms_of(recipe)

    def run(self) -> None:
        """All stages in order; those that are done already are not repeated."""
        recipe = self.recipe
        if recipe.export.backend == "openvino":
            openvino.package()  # that it is missing is told before hours of training
        if recipe.train.epochs:
            self.rehearse()
        origin = [model_digest(self._start), data_digest(self.data), recipe.seed]
        self._stage("train", [origin, _settings(recipe.train)], ["dense.safetensors"], self._train)
        if recipe.prune is not None:
            cut, recover = "checkpoints/cut.safetensors", recipe.recover or RecoverSection()
            self._stage("prune", _settings(recipe.prune), [cut], self._prune)
            self._stage("recover", _settings(recover), ["pruned.safetensors"], self._recover)
        if recipe.attention is not None:
            settings = dataclasses.asdict(recipe.attention)
            if recipe.attention.weights is not None:
                self._stage("attention", settings, ["quantized.safetensors"], self._attention)
            else:
                cut, recover = "checkpoints/cut.safetensors", recipe.recover or RecoverSection()
                self._stage("attention", settings, [cut], self._attention)
                self._stage("recover", _settings(recover), ["pruned.safetensors"], self._recover)
        self._run_sparse()
        if recipe.budget is not None:
            from ...search.stage import search

            search(self)
        elif recipe.quantize is not None:
            inputs = [_settings(recipe.quantize), self._calibrated]
            self._stage("quantize", inputs, [self._calibrated], self._quantize)
            if recipe.qat is not None:
                self._stage("qat", _settings(recipe.qat), ["quantized.safetensors"], self._qat)
        exports = [form.exported for form in self.forms]
        if packed(recipe):
            exports += [form.compressed for form in self.forms]
        told = [recipe.export.licence] if recipe.export.licence is not None else []
        self._stage("export", [recipe.export.opset, exports, *told], exports, self._export)
        runtime = [recipe.export.backend, recipe.export.threads]
        self._stage("verify", runtime, [], partial(closing_stages.verify_file, self))
        self._stage("measure", runtime, [], partial(closing_stages.measure_files, self))

    def _run_sparse(self) -> None:
        """Masks, rules or rounds."""
        recipe, recover = self.recipe, self.recipe.recover or RecoverSection()
        ways = {"sparsify": recipe.sparsify, "rules": recipe.rules, "rounds": recipe.rounds}
        for name, options in ways.items():
            if options is None:
                continue
            files = [form.weights for form in self.forms if form.weights.startswith(f"{name}/")]
            inputs = [dataclasses.asdict(options), _settings(recover)]
            self._stage(
                name, inputs, [*files, "pruned.safetensors"], partial(getattr(sparse_stages, name), self)
            )

    def rehearse(self) -> None:
        """Go the way once with the untrained network: what cannot be done is told before hours of training.

        Raises:
            InputError: a setting that does not fit the network.
            UnsupportedOp: an operation that pruning or quantization does not understand.
        """
        model = copy.deepcopy(self._start)
        try:
            if self.recipe.prune is not None or self.recipe.budget is not None:
                self._pruned(model, self.recipe.prune or PruneSection(ratio=0.3))
            attention_stages.rehearse(self, model)
            sparse_stages.rehearse(self, model)
            if self.recipe.quantize is not None:
                section = self.recipe.quantize.model_copy(
                    update={"calibration_images": len(self.example), "iterations": 1}
                )
                self._quantized(model, section)
        except UnsupportedOp:
            raise
        except OperationError:
            return  # untrained weights may be unlike trained ones: the stage itself will tell

    def model(self, file: str) -> nn.Module:
        """The network in a file of the folder: what every later stage uses is what the file holds."""
        if file not in self._loaded:
            model = replay(self.folder.path / file, copy.deepcopy(self._start).cpu())
            self._loaded[file] = model.eval()
        return self._loaded[file]

    def _stage(self, name: str, inputs: Any, outputs: list[str], run: Any) -> None:
        shared = name not in _OWN
        self.results[name] = self.folder.stage(name, inputs=inputs, outputs=outputs, run=run, shared=shared)

    def _train(self, key: str) -> dict[str, Any]:
        model = copy.deepcopy(self._start)
        history = self.fit(model, "train", key, self.recipe.train)
        return self.keep(model, "dense.safetensors", history=history)

    def _prune(self, _: str) -> dict[str, Any]:
        assert self.recipe.prune is not None
        model = copy.deepcopy(self.model("dense.safetensors"))
        plan = self._pruned(model, self.recipe.prune)
        cost = {"before": dict(plan.before), "after": dict(plan.after), "notes": list(plan.notes)}
        return self.keep(model, "checkpoints/cut.safetensors", **cost)

    def _attention(self, key: str) -> dict[str, Any]:
        assert self.recipe.attention is not None
        section = dataclasses.replace(self.recipe.attention, seed=self.recipe.seed)
        model = copy.deepcopy(self.model("dense.safetensors"))
        file = "checkpoints/cut.safetensors" if section.weights is None else "quantized.safetensors"
        mine = self._checkpoint("attention", key)
        found = prune_by_attention(
            model,
            self.data,
            example=self.example,
            checkpoint=mine,
            csv=self.folder.path / "attention.csv",
            log_dir=self.folder.path / "tensorboard" / "attention",
            progress=self.progress,
            **dataclasses.asdict(section),
        )
        _delete(mine)
        cost = {"before": dict(found.plan.before), "after": dict(found.plan.after), "notes": [found.reason]}
        return self.keep(model, file, history=list(found.history), error=found.realisation.error, **cost)

    def _recover(self, key: str) -> dict[str, Any]:
        section = self.recipe.recover or RecoverSection()
        model = copy.deepcopy(self.model("checkpoints/cut.safetensors"))
        teacher = copy.deepcopy(self.model("dense.safetensors")) if section.distill else None
        history = self.fit(model, "recover", key, section, teacher=teacher)
        return self.keep(model, "pruned.safetensors", history=history)

    def _quantize(self, _: str) -> dict[str, Any]:
        assert self.recipe.quantize is not None
        model = copy.deepcopy(self.model(before_quantize(self.recipe)))
        self._quantized(model, self.recipe.quantize)
        return self.keep(model, self._calibrated)

    @property
    def _calibrated(self) -> str:
        """File of the quantized network before it is trained, if it is."""
        return "quantized.safetensors" if self.recipe.qat is None else "checkpoints/calibrated.safetensors"

    def _qat(self, key: str) -> dict[str, Any]:
        section = self.recipe.qat
        assert section is not None
        model = copy.deepcopy(self.model(self._calibrated))
        teacher = copy.deepcopy(self.model("dense.safetensors")) if section.distill else None
        late = QuantizationAware(freeze_at=section.freeze_at, damping=section.damping)
        history = self.fit(model, "qat", key, section, teacher=teacher, callbacks=[late])
        if section.epochs:
            model = self.norms_anew(model, augment=section.augment)
        fold_batchnorm(model, self.example)
        return self.keep(model, "quantized.safetensors", history=history)

    def norms_anew(self, model: nn.Module, *, augment: bool) -> nn.Module:
        """With the statistics of the weights as they ended up, on images as they were in training, if that serves."""
        measured = copy.deepcopy(model)
        images = self.some_training_images(4096).batches(shuffle=True, augment=augment, seed=self.recipe.seed)
        reestimate_norms(measured, images, images=None)
        val = self.data.val
        return measured if evaluate(measured, val) > evaluate(model, val) else model

    def _pruned(self, model: nn.Module, section: PruneSection) -> PruningPlan:
        given = {key: value for key, value in section.model_dump().items() if value is not None}
        return prune(model, self.example, **given, data=self.some_training_images(), seed=self.recipe.seed)

    def _quantized(self, model: nn.Module, section: QuantizeSection) -> None:
        calibration = self.some_training_images(section.calibration_images)
        quantize(model, **section.model_dump(), calibration=calibration, seed=self.recipe.seed)

    def some_training_images(self, count: int = _JUDGED_IMAGES) -> Split:
        """A sample for criteria and ranges, always the same."""
        return self.data.train.at_most(count, self.recipe.seed)

    def _export(self, _: str) -> dict[str, Any]:
        about: dict[str, Any] = {"example": self.example, "licence": self.recipe.export.licence}
        for form in self.forms:
            if packed(self.recipe):
                export(self.model(form.weights), self.folder.path / form.compressed, **about)
            export(
                self.model(form.weights),
                self.folder.path / form.exported,
                opset=self.recipe.export.opset,
                classes=self.data.classes,
                mean=self.data.mean,
                std=self.data.std,
                **about,
            )
        return {}

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
        options, more = sparse_stages.training_of(given, self.data)
        if isinstance(section, RecoverSection) and teacher is not None:
            options |= {"distill_weight": section.distill_weight, "temperature": section.temperature}
        if section.epochs == 0:
            return []
        mine = self._checkpoint(name, key)
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
        _delete(mine)
        return list(history)

    def _checkpoint(self, name: str, key: str) -> Path:
        """Where a training of this recipe is resumed from; those of others are deleted."""
        checkpoints = self.folder.path / "checkpoints"
        mine = checkpoints / f"{name}-{key[:16]}"
        for stale in checkpoints.glob(f"{name}-*"):  # of another recipe: nobody can go on from it
            if stale != mine:
                _delete(stale)
        return mine

    def start(self) -> nn.Module:
        """The network before any training."""
        return copy.deepcopy(self._start)

    def keep(self, model: nn.Module, file: str, **result: Any) -> dict[str, Any]:
        """Save a form of the network; `result` with its accuracy."""
        save(model, self.folder.path / file)
        self._loaded.pop(file, None)
        return {"val_accuracy": evaluate(self.model(file), self.data.val), **result}


def _settings(section: Any) -> dict[str, Any]:
    return in_order(section.model_dump(mode="json"))


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
