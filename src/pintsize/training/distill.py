"""Who may teach a network; what is learned from it is the task's (`pintsize.tasks`)."""

from __future__ import annotations

from torch import nn

from pintsize.errors import InputError, InputTypeError


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
