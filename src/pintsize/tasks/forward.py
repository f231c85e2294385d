"""The network's forward with its failures explained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ..data.batches import Inputs, arguments, size
from ..errors import InputError, InputTypeError, OperationError, PintsizeError


def outputs_of(network: Callable[..., Any], inputs: Inputs) -> Any:
    """What the network makes of the inputs of a batch.

    Raises:
        OperationError: the forward fails.
    """
    try:
        return network(*arguments(inputs))
    except PintsizeError:
        raise
    except Exception as error:
        raise forward_failure(error, inputs) from error


def in_single(outputs: Any) -> Any:
    """Outputs of lower precision as float32, which losses and metrics need."""
    return tree_map_only(Tensor, lambda one: one.float() if one.is_floating_point() else one, outputs)


def logits_of(network: Callable[..., Any], inputs: Inputs, num_classes: int) -> Tensor:
    """Logits `[B, K]` of images `[B, C, H, W]`, or of the inputs of a network that takes several; `K` ≥ `num_classes`.

    Raises:
        OperationError: the forward fails.
        InputTypeError: what it returns is not one logit per class and image.
        InputError: there are fewer logits than classes.
    """
    output, count = outputs_of(network, inputs), size(inputs)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != count:
        got = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise InputTypeError(
            f"model's output for images {_shapes(inputs)}",
            f"it is {got}, not logits [{count}, classes]",
            "name the task, such as task='segmentation', or wrap the model so that it returns one row of logits per image",
        )
    if output.shape[1] < num_classes:
        raise InputError(
            f"model with {output.shape[1]} outputs",
            f"the data has {num_classes} classes",
            f"create it with num_classes={num_classes}",
        )
    return output


def _shapes(inputs: Inputs) -> str:
    return ", ".join(str(list(leaf.shape)) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))


def forward_failure(error: Exception, images: Inputs, what: str = "forward") -> OperationError:
    """The error for `what`, a forward or backward, that raised `error` on `images`."""
    message = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {message[0]}" if message else type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in reason or "allocate memory" in reason:
        remedy = "lower batch_size or the image size"
    elif "should be the same" in reason or "same dtype" in reason or "scalar type" in reason:
        given = next(str(leaf.dtype) for leaf in tree_leaves(images) if isinstance(leaf, Tensor))
        remedy = f"give out images in the precision of the weights, or bring the network to theirs: model.to({given})"
    elif "inplace operation" in reason or "in-place operation" in reason:
        remedy = "write what autograd needs to another tensor: y = y + x in place of y += x, nn.ReLU() of inplace=True"
    elif "more than 1 value per channel" in reason:
        remedy = (
            "train on batches of two images or more: raise batch_size, or leave the last, short batch out"
        )
    elif "does not require grad" in reason:
        remedy = "compute the loss from the outputs with torch's own operations: no .item(), .detach() or no_grad()"
    elif what != "forward":
        remedy = "mend the cause: model.train()(images).sum().backward() must work by itself"
    elif not isinstance(images, Tensor) or images.dim() < 3:
        remedy = "the network must take inputs of these shapes"
    else:
        channels, *pixels = images.shape[1:]
        remedy = f"the network must take {channels} channels of {'×'.join(map(str, pixels))} pixels"
    return OperationError(f"model on images {_shapes(images)}", f"its {what} fails ({reason})", remedy)
