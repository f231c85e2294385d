"""Cutting parameters and buffers, and the attributes of modules that must follow."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import containers
from .attention import SlimMultiheadAttention
from .groups import Graph, Removed
from .ops import aten
from .trace import Op, Value

Attributes = dict[str, dict[str, Any]]
"""Module path → attribute → new value."""

# Integers of a user's module that may count channels or heads; others (kernel_size, stride …) never do.
_COUNTS = re.compile(
    r"channel|chan|dim|feature|head|width|plane|hidden|embed|filter|inner|size_per_head", re.IGNORECASE
)


class Undo:
    """What has been changed, how to take it back, and how to do it once more."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._taken_back: list[_Step] = []
        self.attributes: Attributes = {}
        """The module attributes that were changed, with their new values."""

    def on(self, back: Callable[[], object], again: Callable[[], object] | None = None) -> None:
        """Note how to take back a change that is about to be made, and how to make it once more."""
        self._steps.append((back, again))

    def __call__(self) -> None:
        """Take everything back, the latest change first."""
        while self._steps:
            self._taken_back.append(self._steps.pop())
            self._taken_back[-1][0]()

    def again(self) -> None:
        """Make the changes that were taken back once more; nothing is cut anew."""
        while self._taken_back:
            self._steps.append(self._taken_back.pop())
            again = self._steps[-1][1]
            if again is not None:
                again()


_Step = tuple[Callable[[], object], Callable[[], object] | None]


def cut(model: nn.Module, removed: Removed, attributes: Attributes, undo: Undo | None = None) -> Undo:
    """Remove indices from parameters, buffers and gradients in place, and set module attributes.

    Args:
        model: changed in place; shared parameters stay shared.
        removed: parameter or buffer name → dimension → sorted indices.
        attributes: module path → attribute → value, as `new_attributes` finds them.
        undo: where to note how to take it back.

    Returns:
        The means to take everything back: the old tensors are kept until it is dropped.
    """
    undo = undo or Undo()
    modules = dict(model.named_modules(remove_duplicate=False))
    recompute = functools.partial(_recompute, modules, removed)
    undo.on(recompute)
    owners: dict[int, dict[tuple[int, str], dict[str, Any]]] = {}
    table: dict[str, Any]
    for module in modules.values():
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    owners.setdefault(id(tensor), {})[id(table), key] = table
    kept: _Kept = {}
    for name, dims in removed.items():
        old = _tensor(modules, name)
        new = _without(old, dims, kept)
        if isinstance(old, nn.Parameter):
            grad = old.grad
            new = nn.Parameter(new, requires_grad=old.requires_grad)
            new.grad = None if grad is None else _without(grad, dims, kept)
        for (_, key), table in owners[id(old)].items():
            undo.on(
                functools.partial(table.__setitem__, key, old), functools.partial(table.__setitem__, key, new)
            )
            table[key] = new
    undo.attributes.update(attributes)
    undo.on(lambda: None, recompute)
    recompute()
    for path, values in attributes.items():
        module = modules[path]
        if SlimMultiheadAttention.fits(module):
            _set(undo, module, "__class__", SlimMultiheadAttention)
        for key, value in values.items():
            _set(undo, module, key, containers.like(getattr(module, key), value))
    return undo


def _set(undo: Undo, module: nn.Module, key: str, value: Any) -> None:
    undo.on(
        functools.partial(setattr, module, key, getattr(module, key)),
        functools.partial(setattr, module, key, value),
    )
    setattr(module, key, value)


def follow(
    optimizer: torch.optim.Optimizer, before: Mapping[str, nn.Parameter], model: nn.Module, removed: Removed
) -> None:
    """Let an optimiser go on after a cut: its parameters and their state (momentum …) are cut alike.

    A bias that a layer got joins the options of its weight.

    Args:
        optimizer: it holds parameters of `model` as they were before the cut.
        before: `dict(model.named_parameters())` from before the cut.
        model: the network after the cut.
        removed: what was cut.
    """
    after = dict(model.named_parameters())
    replaced = {id(old): (name, after[name]) for name, old in before.items()}
    for group in optimizer.param_groups:
        for k, old in enumerate(group["params"]):
            if id(old) not in replaced:
                continue
            name, new = replaced[id(old)]
            group["params"][k] = new
            if new is old or old not in optimizer.state:
                continue
            state = optimizer.state.pop(old)
            optimizer.state[new] = {
                key: _without(value, removed[name])
                if isinstance(value, Tensor) and value.shape == old.shape
                else value
                for key, value in state.items()
            }
    for name in after.keys() - before.keys():
        weight = after.get(f"{name.rpartition('.')[0]}.weight")
        for group in optimizer.param_groups:
            if any(parameter is weight for parameter in group["params"]):
                group["params"].append(after[name])


def _recompute(modules: Mapping[str, nn.Module], removed: Removed) -> None:
    """Let torch's hooks compute weights anew from what was cut, for whoever reads them before the next forward."""
    for path in dict.fromkeys(name.rpartition(".")[0] for name in removed):
        module = modules.get(path)  # None: the cut was for another network, and is being taken back
        for hook in module._forward_pre_hooks.values() if module is not None else ():
            if type(hook).__module__.startswith("torch.nn.utils.") and hasattr(module, "weight"):
                with torch.no_grad():
                    hook(module, ())


def _tensor(modules: Mapping[str, nn.Module], name: str) -> Tensor:
    path, _, key = name.rpartition(".")
    module = modules[path]
    tensor = module._parameters.get(key, module._buffers.get(key))
    if tensor is None:
        raise KeyError(name)
    return tensor


_Kept = dict[tuple[int, tuple[int, ...]], Tensor]
"""(size, indices that go) → indices that stay: the dimensions of a group share theirs."""


def _without(tensor: Tensor, dims: Mapping[int, list[int]], kept: _Kept | None = None) -> Tensor:
    result = tensor.detach()
    kept = {} if kept is None else kept
    for dim, indices in dims.items():
        if not 0 <= dim < tensor.dim() or not all(
            0 <= i < tensor.shape[dim] for i in (min(indices), max(indices))
        ):
            raise IndexError(
                f"indices up to {max(indices)} along dimension {dim} of a tensor of shape {tuple(tensor.shape)}"
            )
        key = (tensor.shape[dim], tuple(indices))
        if key not in kept:
            keep = torch.ones(tensor.shape[dim], dtype=torch.bool)
            keep[torch.tensor(indices)] = False
            kept[key] = keep.nonzero().reshape(-1)
        result = result.index_select(dim, kept[key].to(tensor.device))
    if (
        tensor.dim() == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    ):
        return result.contiguous(memory_format=torch.channels_last)
    return result.clone() if result.data_ptr() == tensor.data_ptr() else result


def new_attributes(model: nn.Module, graph: Graph, gone: Tensor) -> Attributes:
    """The attributes that no longer fit once the ids that are `gone` are removed, with their new values."""
    aliases = graph.trace.aliases
    parameters = {name: graph.kept_shape(value, gone) for name, value in graph.trace.parameters.items()}
    used, inputs = _weights_in_use(graph, gone)
    sized: dict[str, list[Op]] = {}
    for op in graph.trace.all_ops:
        if op.call is not None and op.call.function.rpartition(".")[2] in _SIZED:
            sized.setdefault(op.module, []).append(op)
    found: Attributes = {}
    for path, module in model.named_modules():
        values: dict[str, Any] = {}
        weight, packed = (aliases.get(name, name) for name in (f"{path}.weight", f"{path}.in_proj_weight"))
        shape = parameters.get(weight, used.get(path))
        if isinstance(module, _NORMS):
            statistics = f"{path}.running_mean"
            vector = shape if shape is not None else parameters.get(aliases.get(statistics, statistics))
            if vector is not None:  # whatever the module does to its input before, its vectors tell
                values = _norm(module, vector)
            elif path in inputs:
                values = _norm_of_input(module, graph.kept_shape(inputs[path], gone))
        elif isinstance(module, nn.MultiheadAttention):
            if packed in parameters:
                inner, width = parameters[packed]
                heads = inner // 3 // module.head_dim
                values = {"embed_dim": width, "kdim": width, "vdim": width, "num_heads": heads}
        elif shape is not None:
            values = _layer(module, shape)
        if not (type(module).__module__.startswith("torch.nn") or isinstance(module, nn.MultiheadAttention)):
            values |= _counts(module, sized.get(path, []), graph, gone)
        values |= _padding(path, graph, gone)
        changed = {key: value for key, value in values.items() if getattr(module, key) != value}
        if changed:
            found[path] = changed
    return found


def _weights_in_use(graph: Graph, gone: Tensor) -> tuple[dict[str, tuple[int, ...]], dict[str, Value]]:
    """Per module that computes its weight the kept shape of that, and per module its first input."""
    parameters = {**graph.trace.parameters, **graph.trace.aliases}
    used: dict[str, tuple[int, ...]] = {}
    inputs: dict[str, Value] = {}
    latents: dict[str, Value] = {}
    normed: dict[str, Value] = {}
    for op in graph.trace.all_ops:
        if op not in graph.live:
            continue
        packet = op.func.overloadpacket
        if f"{op.module}.weight" in parameters:
            pass
        elif packet is aten.convolution:
            used[op.module] = graph.kept_shape(op.args[1], gone)
        elif packet in (aten.mm, aten.addmm) and op.args[-1] in graph.labels.weights:
            used[op.module] = graph.kept_shape(op.args[-1], gone)[::-1]
        seen = [v for v in op.inputs if v not in graph.labels.weights]
        if (
            packet in _NORM_OPS and op.module not in normed
        ):  # what the norm gets, however the module turned it before
            normed[op.module] = op.args[0]
        if seen:
            inputs.setdefault(op.module, seen[0])
        elif op.inputs:  # what a norm of parameters (queries, tokens) takes
            latents.setdefault(op.module, op.inputs[0])
    return used, {**latents, **inputs, **normed}


# Calls that are given sizes as numbers.
_SIZED = {"view", "reshape", "unflatten", "expand", "repeat", "tile", "split", "split_with_sizes", "narrow",
          "layer_norm", "rms_norm", "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full",
          "new_empty"}  # fmt: skip
_NORM_OPS = (aten.native_layer_norm, aten._fused_rms_norm, aten.native_group_norm)
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def _norm(module: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """The size of a norm from that of its weight or running mean."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return {"normalized_shape": shape}
    return {"num_channels" if isinstance(module, nn.GroupNorm) else "num_features": shape[0]}


def _norm_of_input(module: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """The size of a norm without parameters from that of what it normalises."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return {"normalized_shape": tuple(shape[len(shape) - len(module.normalized_shape) :])}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": shape[1]}
    channel = (
        1 if not isinstance(module, nn.modules.instancenorm._InstanceNorm) else -module._get_no_batch_dim()
    )
    return {"num_features": shape[channel]}


def _layer(module: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """Attributes of PyTorch's own layers from the kept shape of their weight."""
    if isinstance(module, nn.modules.conv._ConvNd):
        per_group = module.in_channels // module.groups
        if per_group == 1 and module.groups > 1:  # depthwise
            each = module.out_channels // module.groups
            groups = shape[0] if module.transposed else shape[0] // each
            return {"in_channels": groups, "out_channels": groups * each, "groups": groups}
        if module.transposed:
            return {"in_channels": shape[0], "out_channels": shape[1] * module.groups}
        return {"in_channels": shape[1] * module.groups, "out_channels": shape[0]}
    if isinstance(module, nn.Linear):
        return {"in_features": shape[1], "out_features": shape[0]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": shape[0]}
    if isinstance(module, nn.Embedding):
        return {"num_embeddings": shape[0], "embedding_dim": shape[1]}
    return {}


def _padding(path: str, graph: Graph, gone: Tensor) -> dict[str, Any]:
    """Fewer channels of zeros from a module that pads channels."""
    padding = list(graph.trace.paddings.get(path, ()))
    for (owner, position), ids in graph.labels.padded.items():
        if owner == path:
            padding[position] -= int(gone[ids].sum())
    return {"padding": tuple(padding)} if padding else {}


def _counts(module: nn.Module, calls: list[Op], graph: Graph, gone: Tensor) -> dict[str, Any]:
    """Attributes of a user's module that hold sizes which have changed unambiguously in the `calls` it makes."""
    given = _shapes(graph, gone, [value for op in calls for value in op.outputs])
    taken = _shapes(
        graph, gone, [value for op in calls for value in op.inputs]
    )  # split(x, self.channels // 2)
    return _integers(module, [*given, *taken]) | containers.resized(module, given) if calls else {}


def _shapes(graph: Graph, gone: Tensor, values: Sequence[Value]) -> containers.Shapes:
    """Shapes before and after the cut."""
    return [(tuple(value.shape), graph.kept_shape(value, gone)) for value in values]


def _integers(module: nn.Module, shapes: containers.Shapes) -> dict[str, Any]:
    candidates = {
        key: value
        for key, value in vars(module).items()
        if type(value) is int and value > 1 and _COUNTS.search(key)
    }
    sizes: dict[int, set[int]] = {}
    for old_shape, new_shape in shapes:
        for before, after in zip(old_shape, new_shape, strict=True):
            sizes.setdefault(before, set()).add(after)
    new: dict[str, Any] = {}
    counted = {old for key, old in candidates.items() if key.endswith("heads")}
    for key, old in candidates.items():
        if old in sizes.get(old, ()) and old in counted and not key.endswith("heads"):
            continue  # as many heads as dimensions of a head: heads go, their dimensions stay
        changed = sizes.get(old, {old}) - {old}
        if len(changed) == 1:
            new[key] = changed.pop()
    return new
