"""What a network is called with: an example, or the inputs in a batch, as positional arguments of its `forward`."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..errors import InputError, PintsizeError


def as_args(example: Any, model: nn.Module | None = None) -> tuple[Any, ...]:
    """Positional arguments of `forward` for an example.

    Args:
        example: a tensor or array, a tuple of arguments, or a dict: of arguments by name, or one that a network
            which takes a dict is called with.
        model: the network, which a dict needs.

    Raises:
        InputError: it is no input of the network.
    """
    example = as_tensors(example)
    if isinstance(example, Tensor):
        return (example,)
    if isinstance(example, tuple | list) and example:
        return tuple(example)
    if isinstance(example, Mapping) and example and model is not None:
        return by_name(example, model)
    raise InputError(
        f"example of type {type(example).__name__}",
        "it is not an input of the network",
        "pass a batch of images, e.g. torch.randn(1, 3, 224, 224), or a tuple of all inputs",
    )


def as_tensors(inputs: Any) -> Any:
    """`inputs` with NumPy arrays as tensors, and tensors of inference mode as ordinary ones.

    float64, which NumPy makes where nobody asked for it, becomes the default precision.
    """

    def tensor(array: np.ndarray[Any, Any]) -> Tensor:
        kind = (
            array.astype(np.float32) if array.dtype == np.float64 else array.copy()
        )  # torch warns of read-only memory
        made = torch.from_numpy(np.ascontiguousarray(kind))
        return made.to(torch.get_default_dtype()) if array.dtype == np.float64 else made

    def ordinary(value: Tensor) -> Tensor:
        return value.clone() if value.is_inference() and not torch.is_inference_mode_enabled() else value

    return tree_map_only(Tensor, ordinary, tree_map_only(np.ndarray, tensor, inputs))


def by_name(given: Mapping[str, Any], model: nn.Module) -> tuple[Any, ...]:
    """Inputs by name as positional arguments: by the parameters of `forward`, or the dict whole if it takes one thing.

    Raises:
        InputError: the names are not those of the parameters, of which there are several.
    """
    parameters = parameters_of(model)
    needed = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    if given.keys() <= parameters.keys() and set(needed) <= given.keys():
        last = max(list(parameters).index(name) for name in given)
        return tuple(
            given.get(name, parameter.default) for name, parameter in list(parameters.items())[: last + 1]
        )
    if len(needed) <= 1 and parameters:
        return (dict(given),)
    raise InputError(
        f"inputs named {', '.join(map(str, given))}",
        f"the forward of {type(model).__name__} takes {', '.join(needed) or 'no names'}",
        "name them so, or pass a tuple in that order",
    )


def parameters_of(model: nn.Module) -> dict[str, inspect.Parameter]:
    """The positional parameters of the user's own `forward`, behind wrappers that take anything.

    A network that was read from a file takes what the file takes, under names that Python need not allow.
    """
    if (names := getattr(model, "input_names", None)) is not None:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return {name: inspect.Parameter(f"input_{number}", kind) for number, name in enumerate(names)}
    found: list[Any] = [vars(owner)["forward"] for owner in type(model).__mro__ if "forward" in vars(owner)]
    bound: list[Any] = [functools.partial(each, model) for each in found]  # whatever it calls its `self`
    for forward in ([model.forward] if "forward" in vars(model) else []) + bound:
        parameters = {
            name: parameter
            for name, parameter in inspect.signature(forward).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        }
        if parameters:
            return parameters
    inner = getattr(model, "_orig_mod", getattr(model, "module", None))
    return parameters_of(inner) if isinstance(inner, nn.Module) else {}


def accepts(model: nn.Module, args: tuple[Any, ...]) -> bool:
    """Whether the network's forward runs on `args`: tried, in eval mode, which it is not left in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            model(*args)
    except PintsizeError:
        raise
    except Exception:
        return False
    finally:
        for module, mode in modes.items():
            module.training = mode
    return True


@contextlib.contextmanager
def batched(model: nn.Module) -> Iterator[None]:
    """Within it a convolution that is given one image without a batch dimension refuses: torch takes that, too.

    Raises:
        InputError: it was given one.
    """

    def check(layer: nn.modules.conv._ConvNd, args: tuple[Any, ...]) -> None:
        sides = len(layer.kernel_size)  # the weight may be computed, which nobody may see
        if args and isinstance(args[0], Tensor) and args[0].dim() == sides + 1:
            raise _no_batch(args[0].shape)

    handles = [
        module.register_forward_pre_hook(check)
        for module in model.modules()
        if isinstance(module, nn.modules.conv._ConvNd)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def batch_hint(args: tuple[Any, ...]) -> str:
    """What to add to an error if the example may be one image."""
    one = len(args) == 1 and isinstance(args[0], Tensor) and args[0].dim() in (2, 3)
    return "; if this is one image without a batch dimension, pass image[None]" if one else ""


def check_batch(ops: Sequence[Any], inputs: Sequence[Any]) -> None:
    """Raise `InputError` if a convolution took an input for one image, whose channels would count as a batch."""
    aten = torch.ops.aten
    for op in ops:
        if (
            op.func.overloadpacket is aten.unsqueeze
            and op.call is not None
            and op.call.function.rpartition(".")[2] in _CONVOLUTIONS
            and op.inputs[0] in inputs
        ):
            raise _no_batch(op.inputs[0].shape)


_CONVOLUTIONS = {f"conv{transpose}{n}d" for n in (1, 2, 3) for transpose in ("", "_transpose")}


def _no_batch(shape: torch.Size) -> InputError:
    return InputError(
        f"input of shape {list(shape)}",
        "it has no batch dimension",
        "pass a batch of images [B, …], e.g. image[None] for one",
    )
