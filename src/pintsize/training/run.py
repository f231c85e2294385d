"""One training: its state, its step, its epoch, and how it goes on after a stop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from pintsize.data.batches import Inputs, rows, size, split_batch
from pintsize.errors import OperationError, TrainingDiverged
from pintsize.storage.atomic import remove_partial
from pintsize.tasks import Task
from pintsize.tasks.forward import forward_failure, in_single
from pintsize.tasks.metric import value_of

from . import checkpoint as checkpoints
from . import optimizers, rng
from .callbacks import Callback, TrainState
from .ema import Ema
from .evaluation import score
from .hooks import optimizer_step_hooks
from .parallel import gathered, same_start
from .schedules import lr_at

if TYPE_CHECKING:
    from pintsize.data import Data

    from .options import Options

_CHECK_INTERVAL = 50
"""Steps between two looks at the loss where looking makes the CPU wait for the device."""


class Run:
    """A training of `model`, which is on its device.

    Args:
        model: the network.
        data: what it learns from.
        task: what it learns.
        options: checked.
        accelerator: of this process.
        autocast: dtype to compute in, None for fp32.
        layout: of the images.
        teacher: in eval mode on the same device, or None.
        callbacks: called in this order.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        task: Task,
        options: Options,
        *,
        accelerator: Any,
        autocast: torch.dtype | None,
        layout: torch.memory_format,
        teacher: nn.Module | None,
        callbacks: Sequence[Callback],
    ) -> None:
        self.options, self.accelerator, self.autocast, self.callbacks = (
            options,
            accelerator,
            autocast,
            callbacks,
        )
        self._data, self._teacher, self._layout = data, teacher, layout
        self.task, self._smoothed = task, task.smoothed(options.label_smoothing)
        # batch norm cannot normalise one image alone; the order changes, so none is left out for good
        self._drop_last = len(data.train) > options.batch_size and len(data.train) % options.batch_size == 1
        others = [p for callback in callbacks for p in callback.own_parameters(model)]
        self.state = TrainState(
            model=model,
            optimizer=optimizers.build(model, options, others=others),
            device=accelerator.device,
            epochs=options.epochs,
            steps_per_epoch=data.train.num_batches(options.batch_size, drop_last=self._drop_last),
        )
        for callback in callbacks:
            callback.on_train_start(self.state)
        if accelerator.num_processes > 1:
            same_start(model)  # before anything is copied from it
        self._ema = None if options.ema is None else Ema(model, options.ema)
        self.state.ema = None if self._ema is None else self._ema.module
        self._best: dict[str, Tensor] | None = None
        self._network: nn.Module = model
        self._wrapped: list[bool] | None = None
        self._saved = "no checkpoint was written"

    def epoch(self, epoch: int, on_step: Callable[[], None]) -> dict[str, Any]:
        """Train and validate once over the data; the new entry of the history."""
        state, options = self.state, self.options
        began = time.perf_counter()
        state.epoch = epoch
        state.model.train()
        for callback in self.callbacks:
            callback.on_epoch_start(state)
        self._wrap()
        train_loss, trained = self._pass(on_step)
        evaluated = state.model if state.ema is None else state.ema
        val_loss, value = self._validate(evaluated)
        key = self.task.key
        state.history.append(
            {
                "epoch": epoch + 1,
                "lr": state.lr,
                "train_loss": train_loss,
                **({} if trained is None else {f"train_{key}": trained}),
                "val_loss": val_loss,
                f"val_{key}": value,
                **self._named(),
                "seconds": time.perf_counter() - began,
            }
        )
        if options.keep == "best" and state.history.best is state.history[-1]:
            self._best = {name: tensor.clone() for name, tensor in evaluated.state_dict().items()}
        for callback in self.callbacks:
            callback.on_epoch_end(state)
        best = state.history.best
        if options.patience is not None and best is not None:
            state.stop = state.stop or epoch + 1 - int(best["epoch"]) >= options.patience
        return state.history[-1]

    def _named(self) -> dict[str, Any]:
        """What the metric of an epoch's entry is, where its key does not tell."""
        metric = self.task.metric
        if self.task.key == "accuracy" or metric is None:
            return {}
        return {
            "metric_name": metric.name,
            "metric_unit": metric.unit,
            "higher_is_better": metric.higher_is_better,
        }

    def _pass(self, on_step: Callable[[], None]) -> tuple[float, float | None]:
        """All steps of one epoch: mean loss over the training images, and the share that is right in percent."""
        state, options = self.state, self.options
        single = self.accelerator.num_processes == 1
        interval = 1 if single and state.device.type == "cpu" else _CHECK_INTERVAL
        hooks = optimizer_step_hooks(state.model)
        totals = torch.zeros(2, device=state.device)  # loss · images, correct
        count = 0
        for batch in self._data.train.batches(
            options.batch_size,
            shuffle=True,
            augment=options.augment,
            seed=options.seed,
            epoch=state.epoch,
            device=state.device,
            drop_last=self._drop_last,
        ):
            state.lr = lr_at(state.step, state.steps_per_epoch, options)
            for group in state.optimizer.param_groups:
                group["lr"] = state.lr
            inputs, targets = split_batch(batch, state.model)
            totals += self._step(inputs, targets, hooks)
            count += size(inputs)
            state.step += 1
            if state.step % interval == 0:
                self._require_finite(totals)
            for callback in self.callbacks:
                callback.on_step_end(state)
            on_step()
        totals = self._require_finite(totals)
        right = float(totals[1])
        return float(totals[0]) / count, None if math.isnan(right) else 100 * right / count

    def _step(self, inputs: Inputs, targets: Any, hooks: Sequence[Callable[[], None]]) -> Tensor:
        """One optimizer step; loss · images and correct predictions, which sum over the processes."""
        state, world = self.state, self.accelerator.num_processes
        n = size(inputs)
        if n >= world > 1:
            index = self.accelerator.process_index
            inputs, targets = (
                rows(each, index * n // world, (index + 1) * n // world, of=n) for each in (inputs, targets)
            )
        # the mean of the processes' losses is the loss of the whole batch, also when shares differ in size
        scale = world / n if n >= world else 1 / n
        inputs = tree_map_only(Tensor, self._laid_out, inputs)
        state.model.zero_grad(set_to_none=True)
        loss, right = self._loss(inputs, targets)
        loss = loss * scale
        for callback in self.callbacks:
            penalty = callback.penalty(state)
            loss = loss if penalty is None else loss + penalty
        try:
            self.accelerator.backward(loss)
        except RuntimeError as error:
            raise forward_failure(error, inputs, "backward") from error
        for callback in self.callbacks:
            callback.on_backward(state)
        state.optimizer.step()
        for hook in hooks:
            hook()
        if self._ema is not None:
            self._ema.update(state.model)
        with torch.no_grad():
            counted = loss.new_tensor(math.nan) if right is None else right * (scale * n / world)
            return torch.stack([loss.detach() * (n / world), counted])

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.to(memory_format=self._layout) if images.ndim == 4 else images

    def _loss(self, inputs: Inputs, targets: Any) -> tuple[Tensor, Tensor | None]:
        """Summed over the images, and how many are right."""
        options, task, count = self.options, self._smoothed, size(inputs)
        if task.own_step:
            with self._autocast():
                return task.step(self._network, inputs, targets).float() * count, None
        with self._autocast():
            outputs = task.outputs(self._network, inputs, len(self._data.classes))
        full = in_single(outputs)
        loss = task.total(full, targets, count)
        if self._teacher is not None:
            with torch.no_grad(), self._autocast():
                taught = task.outputs(self._teacher, inputs, len(self._data.classes))
            weight = options.distill_weight
            taught = in_single(taught)
            loss = (1 - weight) * loss + weight * task.distill_total(full, taught, options.temperature, count)
        with torch.no_grad():
            return loss, task.hits(outputs, targets)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.state.device.type, dtype=self.autocast, enabled=self.autocast is not None)

    def _validate(self, model: nn.Module) -> tuple[float | None, float | None]:
        """Loss and metric on the validation split, as `evaluate` finds it; None where there is none."""
        val, accelerator, device = self._data.val, self.accelerator, self.state.device
        if val is None or not len(val):
            return None, None
        part = (accelerator.process_index, accelerator.num_processes)
        found = score(model, val, self.task, batch_size=256, part=part)
        loss, count = self._sum(torch.tensor([found.loss, found.count], device=device)).tolist()
        if not self.task.own_step and not math.isfinite(loss):
            raise self._diverged("validation loss")
        records = gathered(found.records, accelerator.num_processes)
        metric = self.task.metric
        return (
            None if self.task.own_step else loss / count,
            None if metric is None else value_of(metric, records),
        )

    def _sum(self, totals: Tensor) -> Tensor:
        reduced: Tensor = self.accelerator.reduce(totals, "sum")
        return reduced

    def _require_finite(self, totals: Tensor) -> Tensor:
        """`totals` summed over the processes, so that all of them stop at the same step."""
        totals = self._sum(totals)
        if not math.isfinite(totals[0]):
            raise self._diverged("training loss")
        return totals

    def _diverged(self, loss: str) -> TrainingDiverged:
        state = self.state
        return TrainingDiverged(
            f"epoch {state.epoch + 1}, step {state.step}",
            f"the {loss} became NaN or infinite (lr {state.lr:.4g})",
            f"lower lr or add warmup_epochs; {self._saved}",
        )

    def _wrap(self) -> None:
        """Distributed: gradients are exchanged for exactly the parameters that are trained now."""
        trained = [parameter.requires_grad for parameter in self.state.model.parameters()]
        if self.accelerator.num_processes > 1 and trained != self._wrapped:
            self._network = self.accelerator.prepare_model(self.state.model, device_placement=False)
            self._wrapped = trained

    def save(self, path: Path | None, configuration: dict[str, Any]) -> None:
        """Write the checkpoint of the epoch just finished."""
        if path is None:
            return
        from accelerate.utils import gather_object

        generators = gather_object([rng.state(self.state.device)])
        state = self.state
        if self.accelerator.is_main_process:
            checkpoints.write(
                path,
                {
                    "configuration": configuration,
                    "epoch": state.epoch + 1,
                    "step": state.step,
                    "stop": state.stop,
                    "model": dict(state.model.state_dict()),
                    "optimizer": state.optimizer.state_dict(),
                    "ema": None if self._ema is None else self._ema.state_dict(),
                    "best": self._best,
                    "history": list(state.history),
                    "callbacks": [callback.state_dict() for callback in self.callbacks],
                    "generators": generators,
                },
            )
        self._saved = f"the last good checkpoint, after epoch {state.epoch + 1}, is in {path}"

    def resume(self, path: Path | None, configuration: dict[str, Any]) -> int:
        """Go back to where the checkpoint is, if there is one; the number of epochs done."""
        from accelerate.utils import gather_object

        self.accelerator.wait_for_everyone()
        done = 0
        if path is not None and path.exists():
            saved = checkpoints.read(path)
            checkpoints.require_same(path, saved["configuration"], configuration)
            self._take_back(saved)
            done = int(saved["epoch"])
            self._saved = f"the last good checkpoint, after epoch {done}, is in {path}"
        if path is not None and self.accelerator.is_main_process:
            remove_partial(path.parent, ".", of=path.name)
        if len(found := set(gather_object([done]))) > 1:
            raise OperationError(
                f"checkpoint {path}",
                f"the processes find different epochs in it ({sorted(found)})",
                "put it on storage that all machines share",
            )
        return done

    def _take_back(self, saved: dict[str, Any]) -> None:
        state = self.state
        state.model.load_state_dict(saved["model"])
        state.optimizer.load_state_dict(saved["optimizer"])
        if self._ema is not None:
            self._ema.load_state_dict(saved["ema"])
        self._best = saved["best"]
        state.step, state.stop = saved["step"], saved["stop"]
        state.history.extend(saved["history"])
        for callback, own in zip(self.callbacks, saved["callbacks"], strict=True):
            callback.load_state_dict(own)
        rng.restore(saved["generators"][self.accelerator.process_index], state.device)

    def finish(self) -> None:
        """Leave the model with the weights it is to have, in eval mode, without gradients."""
        model = self.state.model
        if self._best is not None:
            model.load_state_dict(self._best)
        elif self._ema is not None:
            model.load_state_dict(self._ema.module.state_dict())
        model.zero_grad(set_to_none=True)
        model.eval()
