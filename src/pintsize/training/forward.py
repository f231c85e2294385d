"""The network's forward with its failures explained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pintsize.errors import InputError, InputTypeError, OperationError, PintsizeError


def logits_of(network: Callable[[Tensor], Any], images: Tensor, num_classes: int) -> Tensor:
    """Logits `[B, K]` of images `[B, C, H, W]`, with `K` at least `num_classes`.

    Raises:
        OperationError: the forward fails.
        InputTypeError: what it returns is not one logit per class and image.
        InputError: there are fewer logits than classes.
    """
    try:
        output = network(images)
    except PintsizeError:
        raise
    except Exception as error:
        raise forward_failure(error, images) from error
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(images):
        got = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise InputTypeError(
            f"model's output for images {list(images.shape)}",
            f"it is {got}, not logits [{len(images)}, classes]",
            "wrap the model so that it returns one row of logits per image",
        )
    if output.shape[1] < num_classes:
        raise InputError(
            f"model with {output.shape[1]} outputs",
            f"the data has {num_classes} classes",
            f"create it with num_classes={num_classes}",
        )
    return output


def forward_failure(error: Exception, images: Tensor, what: str = "forward") -> OperationError:
    """The error for `what`, a forward or backward, that raised `error` on `images`."""
    message = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {message[0]}" if message else type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in reason or "allocate memory" in reason:
        remedy = "lower batch_size or the image size"
    elif "inplace operation" in reason or "in-place operation" in reason:
        remedy = "write what autograd needs to another tensor: y = y + x in place of y += x, nn.ReLU() of inplace=True"
    elif "more than 1 value per channel" in reason:
        remedy = (
            "train on batches of two images or more: raise batch_size, or leave the last, short batch out"
        )
    elif what == "forward":
        channels, *pixels = images.shape[1:]
        remedy = f"the network must take {channels} channels of {'×'.join(map(str, pixels))} pixels"
    else:
        remedy = "mend the cause: model.train()(images).sum().backward() must work by itself"
    return OperationError(f"model on images {list(images.shape)}", f"its {what} fails ({reason})", remedy)
