"""A task: what a network is for. Every place that trains, judges or compares networks asks it.

A task is a few plain functions of outputs and targets, whatever these are: one tensor, a tuple, a dict, nested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from ..data.batches import Inputs
from ..errors import InputError, InputTypeError, OperationError, PintsizeError
from ..registry import Registry
from .forward import outputs_of
from .metric import Metric, as_metric
from .own import FunctionFailed, called, described, identity, in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS: Registry[Callable[..., Task]] = Registry("task")
"""By name: what makes the task from its options."""


class Task:
    """Loss, metric and comparison of a network's outputs.

    Args:
        loss: outputs and targets → a scalar tensor, the mean over the images of a batch. None: the network is trained
            by `step`, or not at all.
        metric: outputs and targets of a batch → a number; or a metric of torchmetrics; or a `Metric`.
        higher_is_better: of a metric that is a plain function.
        distill: outputs, the teacher's outputs and the temperature → a scalar tensor; by default the squared error of
            every output, relative to the teacher's.
        agreement: outputs of two networks → whether they decide alike, bool [B]; None: there are no decisions.
        step: model, inputs, targets → a scalar tensor, for networks that compute their own loss in training mode.
        name: for messages and reports.
    """

    name = "task of one's own"
    key = "metric"
    """What its figures are called in histories, results and JSON, after `train_`, `val_` or nothing."""

    def __init__(
        self,
        loss: Callable[[Any, Any], Tensor] | None = None,
        metric: Any = None,
        *,
        higher_is_better: bool = True,
        distill: Callable[[Any, Any, float], Tensor] | None = None,
        agreement: Callable[[Any, Any], Tensor] | None = None,
        step: Callable[[nn.Module, Any, Any], Tensor] | None = None,
        name: str | None = None,
    ) -> None:
        for what, given in (("loss", loss), ("distill", distill), ("agreement", agreement), ("step", step)):
            if given is not None and not callable(given):
                raise InputTypeError(
                    f"{what} of type {type(given).__name__}",
                    "it is no function",
                    f"pass {what}=fn(outputs, targets)",
                )
        self._loss, self._distill, self._agreement, self._step = loss, distill, agreement, step
        self.metric: Metric | None = (
            None if metric is None else as_metric(metric, higher_is_better=higher_is_better)
        )
        self.name = name or self.name

    def __repr__(self) -> str:
        return f"Task({self.name}, metric={None if self.metric is None else self.metric.name})"

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean loss of a batch, a scalar."""
        if self._loss is None:
            raise InputError(
                f"task {self.name!r}", "it has no loss", "pass loss=fn(outputs, targets) to ps.Task, or step="
            )
        return scalar(called(self._loss, f"loss of task {self.name!r}", outputs, targets), self.name)

    def total(self, outputs: Any, targets: Any, count: int) -> Tensor:
        """The loss summed over the `count` images of a batch."""
        return self.loss(outputs, targets) * count

    @property
    def identity(self) -> str:
        """Its name, and what tells it from others of that name: options, and the code of one's own functions."""
        return f"{self.name} {identity(self)}"

    @property
    def own_step(self) -> bool:
        """Whether networks compute their loss themselves."""
        return self._step is not None or type(self).step is not Task.step

    def step(self, model: nn.Module, inputs: Inputs, targets: Any) -> Tensor:
        """The mean loss of a batch, from the network in training mode."""
        if self._step is not None:
            what = f"step of task {self.name!r}"
            return scalar(called(self._step, what, model, inputs, targets), self.name)
        return self.loss(self.outputs(model, inputs), targets)

    def check(self, inputs: Inputs, targets: Any, num_classes: int = 0) -> None:
        """Raise what makes the targets of a batch unfit, as far as they can be judged without outputs."""

    def outputs(self, network: Callable[..., Any], inputs: Inputs, num_classes: int = 0) -> Any:
        """What the network makes of the inputs.

        Raises:
            OperationError: the forward fails.
            InputTypeError: its outputs are none of this task.
        """
        return outputs_of(network, inputs)

    def smoothed(self, amount: float) -> Task:
        """With labels smoothed, where targets are classes.

        Raises:
            InputError: they are not.
        """
        if amount:
            raise InputError(
                f"label_smoothing={amount}",
                f"the targets of task {self.name!r} are no classes",
                "leave it out",
            )
        return self

    def hits(self, outputs: Any, targets: Any) -> Tensor | None:
        """How many of a training batch are right, where that costs nothing; None elsewhere."""
        return None

    def distill(self, outputs: Any, taught: Any, temperature: float) -> Tensor:
        """The mean loss of a batch against a teacher's outputs, a scalar.

        Raises:
            InputError: teacher and student do not have the same outputs.
        """
        if self._distill is not None:
            what = f"distill of task {self.name!r}"
            return scalar(called(self._distill, what, outputs, taught, temperature), self.name)
        return relative_errors(outputs, taught).mean()

    def distill_total(self, outputs: Any, taught: Any, temperature: float, count: int) -> Tensor:
        """`distill` summed over the `count` images of a batch."""
        return self.distill(outputs, taught, temperature) * count

    def agreement(self, ours: Any, theirs: Any) -> Tensor | None:
        """Whether two networks decide alike about each image, bool or shares [B]; None where there are no decisions.

        Raises:
            InputTypeError: what the function returns is something else.
        """
        if self._agreement is None:
            return None
        found = called(self._agreement, f"agreement of task {self.name!r}", ours, theirs)
        if not isinstance(found, Tensor) or found.dim() != 1 or not ((found >= 0) & (found <= 1)).all():
            raise InputTypeError(
                f"agreement of task {self.name!r}", f"it is {described(found)}, not true or false for each image",
                "return a bool tensor [B], or shares from 0 to 1",
            )  # fmt: skip
        return found

    @property
    def draws(self) -> bool:
        """Whether there is a picture of it."""
        return type(self).picture is not Task.picture

    def picture(
        self, images: Any, outputs: Mapping[str, Any], targets: Any, classes: Sequence[str]
    ) -> Figure | None:
        """A few images with what networks, by name, and the targets say of them; None where there is nothing to draw."""
        return None

    def judged(self) -> Metric:
        """Its metric.

        Raises:
            InputError: it has none.
        """
        if self.metric is None:
            raise InputError(
                f"task {self.name!r}", "it has no metric", "pass metric=fn(outputs, targets) to ps.Task"
            )
        return self.metric


def scalar(loss: Any, name: str) -> Tensor:
    """A loss, which must be one number with a gradient's worth of precision.

    Raises:
        InputTypeError: it is something else.
    """
    if (
        isinstance(loss, dict)
        and loss
        and all(isinstance(one, Tensor) and one.numel() == 1 for one in loss.values())
    ):
        loss = torch.stack(
            [one.reshape(()) for one in loss.values()]
        ).sum()  # as torchvision's detectors return it
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        told = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputTypeError(
            f"loss of task {name!r}",
            f"it is {told}, not a scalar",
            "return the mean over the batch: loss.mean()",
        )
    return loss.reshape(())


def relative_errors(outputs: Any, reference: Any) -> Tensor:
    """‖o − r‖² / ‖r‖² of every output and image, the mean over outputs, [B].

    Raises:
        InputError: the two have other structures or shapes.
    """
    (ours, structure), (theirs, wanted) = tree_flatten(outputs), tree_flatten(reference)
    pairs = [
        (a, b) for a, b in zip(ours, theirs, strict=False) if isinstance(b, Tensor) and b.is_floating_point()
    ]
    shapes = [[list(one.shape) for one in leaves if isinstance(one, Tensor)] for leaves in (ours, theirs)]
    if structure != wanted or shapes[0] != shapes[1] or not pairs:
        raise InputError(
            f"outputs {_told(shapes[0])}",
            f"those to compare with are {_told(shapes[1])}",
            "use a teacher and a student of the same outputs",
        )
    errors = []
    for a, b in pairs:
        difference, scale = (a.float() - b.float()).square(), b.float().square()
        over = list(range(1, b.dim()))
        errors.append(
            (difference.sum(over) if over else difference)
            / (scale.sum(over) if over else scale).clamp_min(1e-12)
        )
    return torch.stack(errors).mean(0)


def _told(shapes: Sequence[list[int]]) -> str:
    return ", ".join(map(str, shapes)) or "no tensors"


def _learns(outputs: Any) -> bool:
    """Whether gradients flow through outputs."""
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(outputs))


def checked(task: Task, model: nn.Module, batch: tuple[Inputs, Any], *, num_classes: int = 0) -> float | None:
    """Try a task on one batch, in eval mode, before hours of training; raise what would be raised then.

    Where gradients are on, the loss must have one.

    Args:
        task: to try.
        model: unchanged.
        batch: inputs and targets on the model's device.
        num_classes: of the data.

    Returns:
        The metric of the batch, if there is one: not a number where it is not defined for so few images.

    Raises:
        OperationError: the loss is not finite, or loss or metric raise.
        InputTypeError: they do not give what they should.
    """
    inputs, targets = batch
    task.check(inputs, targets, num_classes)
    outputs = task.outputs(model, inputs, num_classes)
    judged = tree_map_only(Tensor, Tensor.detach, outputs)
    tries: list[tuple[str, Callable[[], Any]]] = []
    found = None
    if not task.own_step:
        tries.append(("loss", lambda: task.loss(outputs, targets)))
    # a teacher, and a file to compare with, come after hours of training
    if task._distill is not None:
        tries.append(("distill", lambda: task.distill(outputs, judged, 1.0)))
    if task._agreement is not None:
        tries.append(("agreement", lambda: task.agreement(judged, judged)))
    if task.metric is not None:
        metric = task.metric
        tries.append((f"metric {metric.name!r}", lambda: metric.value(list(metric.records(judged, targets)))))
    for what, attempt in tries:
        try:
            found = attempt()
        except FunctionFailed as error:
            raise unfit(task, what, error.__cause__ or error, targets) from error
        except PintsizeError:
            raise
        except Exception as error:
            raise unfit(task, what, error, targets) from error
        if what == "loss" and _learns(outputs) and not found.requires_grad:
            raise OperationError(
                f"loss of task {task.name!r}", "it does not require grad: nothing could be learned from it",
                "compute it from the outputs with torch's own operations: no .item(), .detach() or .numpy()",
            )  # fmt: skip
        if what == "loss" and not torch.isfinite(found):
            raise OperationError(
                f"loss of task {task.name!r}", f"it is {found.item()} on the first batch",
                "check the range of inputs and targets, and the weights",
            )  # fmt: skip
    return found if task.metric is not None else None


def unfit(task: Task, what: str, error: BaseException, targets: Any) -> OperationError:
    """The error for a loss, a metric or a step that raised `error` on the first batch."""
    return OperationError(
        f"{what} of task {task.name!r}",
        f"it fails on the first batch ({in_words(error)}); targets are {described(targets)}",
        "make loss, metric and targets fit each other, or name another task",
    )
