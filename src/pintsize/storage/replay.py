"""A saved network, brought back onto one that was at an earlier point of the same record."""

from __future__ import annotations

import os

from torch import nn

from ..errors import CorruptFile
from .network_file import load_tensors, read_tensors
from .record import append, record, steps_from_json


def replay(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Do to `model`, in place, the steps that the file's record has beyond the model's, and load its weights.

    Raises:
        CorruptFile: the file's record does not begin with the model's.
    """
    tensors, document = read_tensors(path)
    steps, known = steps_from_json(document, source=str(path)), record(model)
    if [step.kind for step in steps[: len(known)]] != [step.kind for step in known]:
        raise CorruptFile(
            str(path), "its record does not begin with what was done to the model", "remove the file"
        )
    for step in steps[len(known) :]:
        step.apply(model)
        append(model, step)
    load_tensors(model, tensors, source=str(path))
    return model
