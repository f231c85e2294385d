"""Where and in which memory layout a network works, for as long as it is needed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import torch
from torch import nn


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter or buffer; the CPU if there is none."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@contextlib.contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Give every submodule its train or eval mode back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def layout_for(model: nn.Module, device: torch.device) -> torch.memory_format:
    """The memory layout in which `model` is trained on `device`.

    Convolutions on CPUs and on tensor cores compute in channels-last, and reorder anything else each time.
    On CPUs there is one they get wrong: oneDNN (as of torch 2.13) writes beyond its buffer in the weight
    gradient of a strided 1×1 convolution of fewer than 16 input channels, if the batch is odd.
    """
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    if device.type == "cpu" and any(
        max(conv.stride) > 1 and set(conv.kernel_size) == {1} and conv.in_channels // conv.groups < 16
        for conv in convolutions
    ):
        return torch.contiguous_format
    return torch.channels_last


@contextlib.contextmanager
def laid_out_on(model: nn.Module, device: torch.device, layout: torch.memory_format) -> Iterator[None]:
    """Keep `model` on `device` with its weights in `layout`; then put everything back where it was."""
    home = device_of(model)
    model.to(device)
    reordered = [p for p in model.parameters() if p.ndim == 4 and p.is_contiguous()]
    for parameter in reordered:
        _lay_out(parameter, layout)
    try:
        yield
    finally:
        for parameter in reordered:
            _lay_out(parameter, torch.contiguous_format)
        model.to(home)


def _lay_out(parameter: nn.Parameter, layout: torch.memory_format) -> None:
    # not Tensor.contiguous, which leaves the strides of 1×1 kernels: gradients must have the same ones
    parameter.data = torch.empty_like(parameter, memory_format=layout).copy_(parameter).detach()
