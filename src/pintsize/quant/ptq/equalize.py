"""Cross-layer equalisation: scale channels between two layers so that both quantize well.

A ReLU lets positive factors through, so channel `i` between two layers may be divided by `s_i` in the
first and multiplied by it in the second. Nagel et al. (1906.04721, section 4.1) choose
`s_i = √(r1_i · r2_i) / r2_i`, which makes both ranges equal. Our weights have a scale per output
channel, so the first layer's weights do not mind; what shares one scale is its activation, whose range
on the calibration images takes the place of `r1`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...data.batches import Inputs, rows, run
from ...graph import trace
from ..network.flow import Edge, Kind, Node, build

_LARGEST = 32.0


@torch.no_grad()
def equalize(model: nn.Module, images: Sequence[Inputs]) -> list[tuple[str, str]]:
    """Equalise all pairs of layers in place; what the network computes in floating point stays the same.

    Args:
        model: with batch norm folded, in eval mode, not yet quantized.
        images: calibration batches.

    Returns:
        The pairs, by path: layers of which the second alone reads what the first gives, with at most a
        ReLU in between.
    """
    found = pairs(model, rows(images[0], 0, 2))
    for first, second, rectified in found:  # in the order they run: each sees what the pair before it left
        a, b = model.get_submodule(first), model.get_submodule(second)
        given = _output_range(model, a, images, rectified=rectified)
        taken = _input_range(b)
        used = (given > 0) & (taken > 0)
        # equal up to a common factor, which a per-tensor scale swallows
        factor = torch.where(used, (given * taken).sqrt() / taken.clamp_min(1e-30), torch.ones_like(given))
        factor = factor / factor[used].log().mean().exp() if used.any() else factor
        factor = torch.where(used, factor.clamp(1 / _LARGEST, _LARGEST), torch.ones_like(factor))
        _divide_outputs(a, factor)
        _multiply_inputs(b, factor)
    return [(first, second) for first, second, _ in found]


def pairs(model: nn.Module, example: Any) -> list[tuple[str, str, bool]]:
    """Paths of layers that can be equalised, in the order they run, and whether a ReLU is in between."""
    flow = build(trace.record(model, example), model)
    runs = [node.layer for node in flow.nodes if node.layer is not None]
    shared: dict[int, int] = {}
    for module in model.modules():
        if isinstance(module._parameters.get("weight"), Tensor):
            key = id(module._parameters["weight"])
            shared[key] = shared.get(key, 0) + 1

    def free(node: Node) -> bool:
        module = model.get_submodule(node.layer or "")
        own = module._parameters.get("weight")
        kind = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
        return kind and own is not None and shared[id(own)] == 1 and runs.count(node.layer or "") == 1

    found = []
    for node in flow.nodes:
        if node.layer is None or not free(node):
            continue
        reader = _only_reader(node.outputs[0], flow.outputs)
        rectified = reader is not None and reader.kind is Kind.CLIP and reader.name in ("relu", "relu_")
        if reader is not None and rectified:
            reader = _only_reader(reader.outputs[0], flow.outputs)
        if reader is not None and reader.layer is not None and free(reader):
            found.append((node.layer, reader.layer, rectified))
    return found


def _only_reader(edge: Edge, outputs: list[Edge]) -> Node | None:
    return edge.readers[0] if len(edge.readers) == 1 and edge not in outputs else None


def _output_range(model: nn.Module, layer: nn.Module, images: Sequence[Inputs], *, rectified: bool) -> Tensor:
    """Largest magnitude, or largest value if a ReLU follows, of each output channel of `layer`, [C]."""
    found: list[Tensor] = []

    def watch(_module: nn.Module, _args: Any, out: Tensor) -> None:
        size = out.relu() if rectified else out.abs()
        channels = size if isinstance(layer, nn.Linear) else size.movedim(1, -1)
        found.append(channels.flatten(0, -2).amax(0))

    handle = layer.register_forward_hook(watch)
    try:
        for batch in images:
            run(model, batch)
    finally:
        handle.remove()
    return torch.stack(found).amax(0)


def _input_range(layer: nn.Module) -> Tensor:
    """Largest weight that meets each input channel, [C]."""
    weight = layer._parameters["weight"]
    assert weight is not None
    groups = int(getattr(layer, "groups", 1))
    parts = weight.detach().abs().unflatten(0, (groups, -1))  # [groups, out / g, in / g, …]
    while parts.dim() > 3:
        parts = parts.amax(-1)
    largest: Tensor = parts.amax(1).flatten()
    return largest


def _divide_outputs(layer: nn.Module, factor: Tensor) -> None:
    weight, bias = layer._parameters["weight"], layer._parameters["bias"]
    assert weight is not None
    weight.div_(factor.view(-1, *[1] * (weight.dim() - 1)))
    if bias is not None:
        bias.div_(factor)


def _multiply_inputs(layer: nn.Module, factor: Tensor) -> None:
    weight = layer._parameters["weight"]
    assert weight is not None
    groups = int(getattr(layer, "groups", 1))
    per_input = factor.view(groups, 1, -1, *[1] * (weight.dim() - 2))
    weight.copy_((weight.unflatten(0, (groups, -1)) * per_input).flatten(0, 1))
