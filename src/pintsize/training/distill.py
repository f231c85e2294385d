"""Learning from a teacher: what the dense network knows helps the smaller one to recover.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 1503.02531, section 2.
Legend: `B` images, `K` classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pintsize.errors import InputError, InputTypeError


def soft_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """`T² · KL(softmax(teacher / T) ‖ softmax(student / T))`, summed over the batch.

    The factor `T²` keeps the gradients' size when `T` changes (section 2.1 of the paper).

    Args:
        logits: the student's, `[B, K]`.
        teacher_logits: `[B, K]`.
        temperature: `T`, above 0.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2


def check_teacher(teacher: nn.Module, student: nn.Module) -> None:
    """Raise if `teacher` cannot teach `student`.

    Raises:
        InputTypeError: it is not a module.
        InputError: it shares parameters with the student, so it would change while it teaches.
    """
    if not isinstance(teacher, nn.Module):
        raise InputTypeError(
            f"teacher of type {type(teacher).__name__}", "it is not a network", "pass an nn.Module"
        )
    own = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in own for parameter in teacher.parameters()):
        raise InputError(
            "teacher",
            "it shares parameters with the model it is to teach",
            "pass a copy made before the model was compressed: copy.deepcopy(model)",
        )


def check_teacher_logits(teacher_logits: Tensor, logits: Tensor) -> None:
    """Raise `InputError` unless teacher and student have the same outputs."""
    if teacher_logits.shape != logits.shape:
        raise InputError(
            f"teacher with {teacher_logits.shape[1]} outputs",
            f"the model has {logits.shape[1]}",
            "pass a teacher of the same classes",
        )
