"""Data parallelism over processes that `torchrun` or `accelerate launch` started.

Each process takes its share of every batch; gradients are averaged by DistributedDataParallel and batch
norms see the statistics of the whole batch, so that any number of processes computes the same, to rounding.
"""

from __future__ import annotations

import atexit
import contextlib
import time
import types
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from pintsize.errors import OperationError
from pintsize.tasks.metric import joined


def start() -> Any:
    """The `accelerate.Accelerator` of this process: device, rank, collectives.

    Raises:
        OperationError: the program already runs Accelerate in a mode that ours excludes.
    """
    from accelerate import Accelerator

    try:
        # cpu=True: without it several processes on a machine without accelerator do not find one another;
        # no mixed precision: ours may differ from one training to the next, Accelerate's may not
        accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="no")
    except ValueError as error:
        raise OperationError(
            "Accelerate",
            f"it is already set up otherwise ({error})",
            "let the first Accelerator of the program be without mixed precision",
        ) from error
    if accelerator.num_processes > 1:
        atexit.unregister(_leave)  # registered once, however many trainings there are
        atexit.register(_leave)
    return accelerator


def _leave() -> None:
    """Let gloo's threads drop the tensors of the last exchange while there is an interpreter to drop them in.

    They need its lock for that, and abort the process if the interpreter is ending (seen once in ten ends).
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        time.sleep(0.3)


def gathered(records: Sequence[Any], processes: int) -> Sequence[Any]:
    """The records of all processes, in every one of them."""
    if processes == 1:
        return records
    parts: list[Any] = [None] * processes
    torch.distributed.all_gather_object(parts, records)
    return joined(parts)


@torch.no_grad()
def same_start(model: nn.Module) -> None:
    """Give every process the weights and buffers of the first."""
    for tensor in (*model.parameters(), *model.buffers()):
        torch.distributed.broadcast(tensor.data, src=0)


class _Sum(torch.autograd.Function):
    """Sum over the processes; so is its gradient, since each process's result enters each one's loss."""

    @staticmethod
    def forward(_ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


def _forward(norm: _BatchNorm, images: Tensor) -> Tensor:
    """`_BatchNorm.forward` with the mean and variance of all processes' images."""
    if not norm.training and norm.running_mean is not None:
        return _BatchNorm.forward(norm, images)
    x = images.to(torch.promote_types(images.dtype, torch.float32))  # for sums half precision is too coarse
    dims = [dim for dim in range(x.ndim) if dim != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    totals: Tensor = _Sum.apply(torch.cat([x.sum(dims), x.new_tensor([x.numel() / x.shape[1]])]))
    count = totals[-1].detach()
    mean = totals[:-1] / count
    centred = x - mean.view(shape)
    variance: Tensor = _Sum.apply(centred.square().sum(dims)) / count  # in two passes: no cancellation
    if norm.training and norm.running_mean is not None and norm.running_var is not None:
        _follow(norm, mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
    y = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        y = y * norm.weight.to(x.dtype).view(shape) + norm.bias.to(x.dtype).view(shape)
    return y.to(images.dtype)


@torch.no_grad()
def _follow(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        momentum = 1 / int(norm.num_batches_tracked) if momentum is None else momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum or 0.0)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), momentum or 0.0)


@contextlib.contextmanager
def global_batch_norm(model: nn.Module) -> Iterator[None]:
    """Make the batch norms of `model` normalise over the processes (`nn.SyncBatchNorm` needs a GPU)."""
    norms = [module for module in model.modules() if type(module).forward is _BatchNorm.forward]
    for norm in norms:
        norm.forward = types.MethodType(_forward, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward
