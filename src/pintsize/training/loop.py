"""`train`: the options, the network in its place, and the epochs."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from pintsize.errors import InputError, InputTypeError
from pintsize.tasks import Task, task_of
from pintsize.tasks.catalog import kept_under
from pintsize.tasks.imitation import Imitation, imitate

from . import checkpoint as checkpoints
from . import parallel, rng
from .callbacks import Callback
from .distill import check_teacher
from .history import History
from .logbook import Logbook
from .options import Options
from .placement import keeping_modes, laid_out_on, layout_for
from .precision import autocast_dtype
from .progress import reporter
from .rehearsal import rehearse
from .run import Run

if TYPE_CHECKING:
    from pintsize.data import Data


def train(
    model: nn.Module,
    data: Data,
    *,
    task: Task | str | Mapping[str, Any] | None = None,
    epochs: int = 10,
    lr: float = 0.1,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 5e-4,
    batch_size: int = 128,
    schedule: str = "cosine",
    warmup_epochs: float = 0,
    step_size: int = 20,
    gamma: float = 0.1,
    label_smoothing: float = 0.0,
    ema: float | None = None,
    precision: str = "auto",
    augment: bool = True,
    seed: int = 0,
    teacher: nn.Module | None = None,
    distill_weight: float = 0.5,
    temperature: float = 4.0,
    keep: str = "last",
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Train `model` in place on `data.train`, validating on `data.val`; `data.test` is never read.

    The model ends in eval mode, on the device it came from. Under `torchrun` or `accelerate launch` every
    process takes its share of each batch. With `checkpoint`, a training that was stopped goes on where it
    was, and on a CPU ends with the same weights, bit for bit; one that has ended is read back.

    Args:
        model: any network; for a classification from images `[B, C, H, W]` to logits `[B, classes]`.
        data: from `pintsize.data.load`, or `pintsize.data.from_loaders`.
        task: what the network is for: a name of `pintsize.tasks.list()`, `{name: …, option: …}`, or a `pintsize.Task`; by
            default that of the data, which is classification where its targets are classes.
        epochs: passes over the training images; 0 changes nothing.
        lr: learning rate at its highest.
        optimizer: `sgd`, `adam` or `adamw`.
        momentum: of SGD; the first beta of the others.
        nesterov: Nesterov's form of the momentum.
        weight_decay: not applied to biases and norms.
        batch_size: images per step, of all processes together.
        schedule: of the learning rate: `cosine`, `step`, `one-cycle` or `constant`.
        warmup_epochs: epochs of linear rise to `lr`; for one-cycle, of its rise (0: 30 % of all).
        step_size: epochs between two steps of the step schedule.
        gamma: factor of each of them.
        label_smoothing: share of the target spread over all classes.
        ema: decay of a moving average of the weights, which then is validated and returned.
        precision: `fp32`, `bf16`, or `auto` for bf16 where the hardware has it.
        augment: crop and flip at random.
        seed: of the order of the images, their augmentation, and all randomness in the network.
        teacher: a network whose logits the model also learns (Hinton et al., 1503.02531); unchanged.
        distill_weight: share `w` of the teacher in `(1-w)·CE + w·T²·KL`.
        temperature: `T`.
        keep: the weights to end with: `last`, or `best` on the validation split.
        patience: end the training after so many epochs without a better one on the validation split; None for never.
        checkpoint: file to write after each epoch and to resume from; with several machines, on shared
            storage.
        log_dir: folder for TensorBoard events.
        progress: False for silence; otherwise a bar on a terminal, one line per epoch elsewhere.
        callbacks: see `pintsize.training.Callback`.

    Returns:
        One entry per epoch, those before a resume among them.

    Raises:
        InputError: an option, the model or the data cannot be used, or the checkpoint is of another training.
        InputTypeError: one of them is of the wrong type.
        CorruptFile: the checkpoint is damaged.
        OperationError: the forward fails, or a file cannot be written.
        TrainingDiverged: the loss became NaN or infinite; the last checkpoint is kept.
    """
    options = Options(
        epochs=epochs,
        lr=lr,
        optimizer=optimizer,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        batch_size=batch_size,
        schedule=schedule,
        warmup_epochs=warmup_epochs,
        step_size=step_size,
        gamma=gamma,
        label_smoothing=label_smoothing,
        ema=ema,
        precision=precision,
        augment=augment,
        seed=seed,
        distill_weight=distill_weight,
        temperature=temperature,
        keep=keep,
        patience=patience,
    )
    chosen = task_of(task, data)
    if isinstance(chosen, Imitation) and teacher is not None:  # its outputs are all there is to learn
        data, teacher = imitate(data, teacher, chosen), None
        chosen = data.task
    _check(model, data, chosen, options, teacher, callbacks)
    if not options.epochs:
        return History()
    # what does not count in masks, and whether targets are images, is the task's to say; the test split is not touched
    data = replace(data, train=data.train.for_task(chosen), val=data.val.for_task(chosen), task=chosen)
    rehearse(model, data, chosen)
    path = None if checkpoint is None else Path(checkpoint)
    with _placed(model, data, chosen, options, teacher, callbacks, path) as run:
        configuration = _configuration(run, data, teacher)
        _epochs(run, configuration, path=path, log_dir=log_dir, progress=progress)
        run.finish()
    return run.state.history


@contextlib.contextmanager
def _placed(
    model: nn.Module,
    data: Data,
    task: Task,
    options: Options,
    teacher: nn.Module | None,
    callbacks: Sequence[Callback],
    path: Path | None,
) -> Iterator[Run]:
    """The training with its networks on the device and randomness seeded; both are put back afterwards."""
    with contextlib.ExitStack() as stack:
        accelerator = parallel.start()
        if path is not None and accelerator.is_main_process:
            checkpoints.prepare(path)
        stack.enter_context(rng.seeded(options.seed + accelerator.process_index, accelerator.device))
        layout = layout_for(model, accelerator.device)
        for network in (model, teacher) if teacher is not None else (model,):
            stack.enter_context(laid_out_on(network, accelerator.device, layout))
        if teacher is not None:
            stack.enter_context(keeping_modes(teacher))
            teacher.eval()
        if accelerator.num_processes > 1:
            stack.enter_context(parallel.global_batch_norm(model))
        yield Run(
            model,
            data,
            task,
            options,
            accelerator=accelerator,
            autocast=autocast_dtype(options.precision, accelerator.device),
            layout=layout,
            teacher=teacher,
            callbacks=callbacks,
        )


def _epochs(
    run: Run,
    configuration: dict[str, Any],
    *,
    path: Path | None,
    log_dir: str | os.PathLike[str] | None,
    progress: bool | None,
) -> None:
    """Train from where the checkpoint is to the end."""
    options, state = run.options, run.state
    done = run.resume(path, configuration)
    main = run.accelerator.is_main_process
    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(
            reporter(progress, options.epochs, done, state.steps_per_epoch, main=main)
        )
        book = Logbook(log_dir, done) if log_dir is not None and main else None
        if book is not None:
            stack.callback(book.close)
        for epoch in range(done, options.epochs):
            if state.stop:
                break
            entry = run.epoch(epoch, shown.step)
            shown.epoch(entry)
            if book is not None:
                book.epoch(entry)
            run.save(path, configuration)


def _check(
    model: nn.Module,
    data: Any,
    task: Task,
    options: Options,
    teacher: nn.Module | None,
    callbacks: Sequence[Callback],
) -> None:
    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"model of type {type(model).__name__}", "it is not a network", "pass an nn.Module"
        )
    for name in ("train", "val", "classes"):
        if not hasattr(data, name):
            raise InputTypeError(
                f"data of type {type(data).__name__}", f"it has no {name!r}", "pass what ps.data.load returns"
            )
    if not len(data.train):
        raise InputError("data.train", "it has no images", "choose a larger limit or a smaller val_fraction")
    by_val = "keep='best'" if options.keep == "best" else None if options.patience is None else "patience"
    if by_val is not None and not len(data.val):
        raise InputError(by_val, "the validation split is empty", "load the data with val_fraction above 0")
    if by_val is not None and task.metric is None:
        raise InputError(f"{by_val} with task {task.name!r}", "it has no metric", "pass metric= to ps.Task")
    if teacher is not None:
        check_teacher(teacher, model)
        if task.own_step:
            raise InputError(
                f"teacher with task {task.name!r}",
                "the network computes its loss itself",
                "add what the teacher says in step=, or give the task loss= and the core of the network",
            )
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise InputTypeError(
                f"callback of type {type(callback).__name__}",
                "it is no Callback",
                "derive it from train.Callback",
            )


def _configuration(run: Run, data: Data, teacher: nn.Module | None) -> dict[str, Any]:
    """What must be equal for a checkpoint to be taken up."""
    of_callbacks = {
        f"{type(callback).__name__}.{key}": value
        for callback in run.callbacks
        for key, value in callback.configuration().items()
    }
    return {
        **of_callbacks,
        **kept_under(run.task),
        **asdict(run.options),
        "precision": "fp32" if run.autocast is None else "bf16",  # what `auto` came to
        "model": _shapes(run.state.model),
        "teacher": None if teacher is None else _shapes(teacher),
        "data": str(getattr(data, "name", "unnamed")),
        "images": f"{len(data.train)} + {len(data.val)} of {len(data.classes)} classes",
        "callbacks": [type(callback).__name__ for callback in run.callbacks],
        "processes": run.accelerator.num_processes,
    }


def _shapes(model: nn.Module) -> str:
    tensors = [f"{name} {tuple(tensor.shape)}" for name, tensor in model.named_parameters()]
    digest = hashlib.sha256("\n".join(tensors).encode()).hexdigest()[:12]
    return f"{type(model).__name__} of {len(tensors)} parameters ({digest})"
