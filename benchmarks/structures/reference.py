"""What a pruned network must compute, worked out without the library's graph: from the removed indices alone."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

Removed = Mapping[str, Mapping[int, list[int]]]


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every vector and every running statistic of `model` random values, so that none is neutral."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.rand(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise)
            elif tensor.dim() <= 1 or not tensor.any():
                tensor.copy_(noise * 1.5 - 0.5)
    return model


def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """All tensors that `model` gives in eval mode."""
    with torch.no_grad():
        result = model.eval()(*(example if isinstance(example, tuple) else (example,)))
    return [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]


def masked(model: nn.Module, example: Any, removed: Removed) -> list[Tensor]:
    """The outputs of the dense `model` with all removed slices zero, norms taken over kept channels."""
    model = copy.deepcopy(model)
    tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    for name, dims in removed.items():
        for dim, indices in dims.items():
            if not name.endswith("weight.original1"):  # a filter of length zero has no direction
                tensors[name].data.index_fill_(dim, torch.tensor(indices), 0)
    with _kept_norms(model, removed):
        return outputs(model, example)


def silenced(model: nn.Module, example: Any, removed: Removed) -> list[Tensor]:
    """As `masked`, but removed channels still emit the constant that their batch norm makes of zero."""
    model = copy.deepcopy(model)
    for path, module in model.named_modules():
        dim = 1 if getattr(module, "transposed", False) else 0
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            names = {f"{path}.weight": dim, f"{path}.bias": 0}
        else:
            names = {f"{path}.running_mean": 0}
        for name, axis in names.items():
            if axis in removed.get(name, {}):
                tensor = getattr(module, name.rpartition(".")[2]).data
                tensor.index_fill_(axis, torch.tensor(removed[name][axis]), 0)
    return outputs(model, example)


def error(expected: list[Tensor], found: list[Tensor]) -> float:
    """Largest difference over the largest value, the worst over all outputs; infinite where shapes differ."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        return float("inf")
    worst = 0.0
    for want, have in zip(expected, found, strict=True):
        relative = float((want - have).abs().max()) / max(float(want.abs().max()), 1e-12)
        worst = max(worst, relative if relative == relative else float("inf"))
    return worst


@contextlib.contextmanager
def _kept_norms(model: nn.Module, removed: Removed) -> Iterator[None]:
    handles = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.GroupNorm) and not hasattr(module, "normalized_shape"):
            continue
        gone = removed.get(f"{path}.weight")
        if gone or getattr(module, "weight", None) is None:
            handles.append(module.register_forward_hook(_over(gone)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _over(gone: Mapping[int, list[int]] | None) -> Any:
    """A hook that takes the norm over what is kept and leaves zero elsewhere.

    A norm without weights does not tell what is gone from it: what is zero everywhere.
    """

    def hook(module: Any, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        small, x = copy.deepcopy(module), inputs[0]
        last = len(getattr(module, "normalized_shape", "1"))
        x = x.flatten(-last) if last > 1 else x
        # norms of convolutional networks permute inside, or work on the second dimension
        dim = 1 if isinstance(module, nn.GroupNorm) or "2d" in type(module).__name__ else x.dim() - 1
        keep = x.movedim(dim, 0).flatten(1).any(1)
        if gone:
            keep = torch.ones_like(module.weight, dtype=torch.bool)
            for axis, indices in gone.items():
                keep.index_fill_(axis, torch.tensor(indices), False)
            keep = keep.flatten()
        kept = keep.nonzero().reshape(-1)
        for name, parameter in module.named_parameters(recurse=False):
            setattr(small, name, nn.Parameter(parameter.flatten()[keep]))
        if isinstance(module, nn.GroupNorm):
            small.num_channels = len(kept)
        else:
            small.normalized_shape = (len(kept),)
        found = small.forward(x.index_select(dim, kept))
        return torch.zeros_like(x).index_copy_(dim, kept, found).reshape(inputs[0].shape)

    return hook


def inconsistent(model: nn.Module) -> list[str]:
    """Attributes of PyTorch's layers that do not match their tensors."""
    found = []
    for path, module in model.named_modules():
        claimed = _claimed(module)
        for name, shape in claimed.items():
            tensor = getattr(module, name, None)
            if isinstance(tensor, Tensor) and tuple(tensor.shape) != shape:
                found.append(f"{path}.{name}: {tuple(tensor.shape)}, its attributes say {shape}")
    return found


def _claimed(module: nn.Module) -> dict[str, tuple[int, ...]]:
    if isinstance(module, nn.modules.conv._ConvNd):
        ends = module.out_channels, module.in_channels
        first, second = ends[::-1] if module.transposed else ends
        return {
            "weight": (first, second // module.groups, *module.kernel_size),
            "bias": (module.out_channels,),
        }
    if isinstance(module, nn.Linear):
        return {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (module.num_features,))
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return dict.fromkeys(("weight", "bias"), tuple(module.normalized_shape))
    if isinstance(module, nn.GroupNorm):
        assert module.num_channels % module.num_groups == 0
        return dict.fromkeys(("weight", "bias"), (module.num_channels,))
    if isinstance(module, nn.PReLU):
        return {"weight": (module.num_parameters,)}
    if isinstance(module, nn.Embedding):
        return {"weight": (module.num_embeddings, module.embedding_dim)}
    if isinstance(module, nn.MultiheadAttention):
        inner = module.num_heads * module.head_dim
        return {"in_proj_weight": (3 * inner, module.embed_dim), "in_proj_bias": (3 * inner,)}
    return {}
