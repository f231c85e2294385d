"""The layers that a program may name, and only those: what a file says is never imported or called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ...errors import CorruptFile

LAYERS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
        nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
        nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Dropout, nn.Embedding, nn.LSTM, nn.GRU, nn.RNN, nn.PReLU,
        nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
        nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Softmax, nn.LogSoftmax,
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
