"""Examples as users have them: arrays of NumPy, tensors of inference mode, an image without a batch dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from .trace import Trace


def as_tensors(example: Any) -> Any:
    """Arrays as tensors (of the default precision where NumPy made doubles); what inference mode made as ordinary ones."""
    if isinstance(example, np.ndarray):
        tensor = torch.from_numpy(np.ascontiguousarray(example))
        return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor
    if isinstance(example, Tensor) and example.is_inference() and not torch.is_inference_mode_enabled():
        return example.clone()
    if type(example) in (tuple, list):
        return type(example)(map(as_tensors, example))
    return example


def batch_hint(args: tuple[Any, ...]) -> str:
    """What to add to an error if the example may be one image."""
    one = len(args) == 1 and isinstance(args[0], Tensor) and args[0].dim() in (2, 3)
    return "; if this is one image without a batch dimension, pass example[None]" if one else ""


def check_batch(trace: Trace) -> None:
    """Raise `InputError` if a convolution took an input for one image, whose channels would count as a batch."""
    aten = torch.ops.aten
    for op in trace.ops:
        if (
            op.func.overloadpacket is aten.unsqueeze
            and op.call is not None
            and op.call.function.rpartition(".")[2] in _CONVOLUTIONS
            and op.inputs[0] in trace.inputs
        ):
            raise InputError(
                f"example of shape {tuple(op.inputs[0].shape)}",
                "it is one image without a batch dimension",
                "pass example[None]",
            )


_CONVOLUTIONS = {f"conv{transpose}{n}d" for n in (1, 2, 3) for transpose in ("", "_transpose")}
