"""The layers that a program may name, and only those: what a file says is never imported or called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import CorruptFile


class Reshape(nn.Module):
    """Sizes that a file has in numbers, where pruning finds and changes them.

    Args:
        sizes: of the dimensions behind the first ones; -1 for whatever is left.
        lead: dimensions that stay as they are, before these.
    """

    def __init__(self, sizes: Sequence[int], lead: int) -> None:
        super().__init__()
        self.sizes, self.lead = tuple(sizes), lead

    def forward(self, x: Tensor) -> Tensor:
        """In the new shape."""
        return x.reshape(*x.shape[: self.lead], *self.sizes)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.lead} as they are, {self.sizes}"


class ChannelPad(nn.Module):
    """Channels of zeros around, as many as pruning leaves.

    Args:
        padding: as `torch.nn.functional.pad` takes it.
        value: that is put there.
    """

    def __init__(self, padding: Sequence[int], value: float = 0.0) -> None:
        super().__init__()
        self.padding, self.value = tuple(padding), value

    def forward(self, x: Tensor) -> Tensor:
        """Padded."""
        return F.pad(x, self.padding, value=self.value)

    def extra_repr(self) -> str:
        """The numbers."""
        return f"{self.padding}"


LAYERS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
        nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
        nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Dropout, nn.Embedding, nn.LSTM, nn.GRU, nn.RNN, nn.PReLU,
        nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
        nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Softmax, nn.LogSoftmax,
        Reshape,
        ChannelPad,
        nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    )
}  # fmt: skip


def make_module(spec: Mapping[str, Any]) -> nn.Module:
    """The layer that an entry of a program describes, with weights of no meaning.

    Raises:
        CorruptFile: there is no such layer, or its options are not its own.
    """
    kind = spec.get("class")
    if kind not in LAYERS:
        raise CorruptFile(
            f"layer {kind!r} of an imported network", "there is no such layer", "restore the file"
        )
    try:
        return LAYERS[str(kind)](**spec["options"])
    except (TypeError, ValueError, KeyError) as error:
        raise CorruptFile(
            f"layer {kind} of an imported network", f"its options do not fit ({error})", "restore the file"
        ) from error
