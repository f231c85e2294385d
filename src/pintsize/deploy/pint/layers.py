"""The weights of quantized and clustered layers as whole numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...quant.clustering.clustered import CODEBOOK, CODES, clustered_layers, codebook, with_codebook
from ...quant.network.convert import WEIGHT, weight_layers

FEWEST = 64
"""Smaller tensors are not worth a model of their symbols."""
Symbols = dict[str, tuple[Tensor, dict[str, Any]]]
"""Name of a tensor → its symbols, int16, and what the header says of them."""


def integer_weights(model: nn.Module) -> Symbols:
    """The integers of quantized weights, or of their codebooks if each scale has one, and where their scale is.

    The float values themselves are not kept, only what the network computes with.
    """
    found: Symbols = {}
    for path, layer in weight_layers(model):
        quantizer: Any = layer.get_submodule(WEIGHT)
        prefix = f"{path}." if path else ""
        clustered = CODES in layer._buffers
        values = codebook(layer) if clustered else layer._parameters.get("weight")
        if (
            values is None
            or values.dtype != torch.float32
            or quantizer.zero_point.any()
            or values.numel() < FEWEST
        ):
            continue
        if clustered:
            symbols, axis = _on_grid(values, quantizer), 0
        else:
            symbols, axis = quantizer.to_int(values).cpu().to(torch.int16), quantizer.axis
        if symbols is not None and symbols.any() and _same(layer, symbols):
            name = f"{prefix}{CODEBOOK if clustered else 'weight'}"
            found[name] = (symbols, {"scale": f"{prefix}{WEIGHT}.scale", "axis": axis})
    return found


def _on_grid(codebooks: Tensor, quantizer: Any) -> Tensor | None:
    """Centroids [rows, levels] as integers of a quantizer with a scale for each row; None if it has none."""
    if quantizer.scale.shape != codebooks.shape[:1] or quantizer.bits == 1:
        return None  # one bit has no level for the removed weights
    scale = quantizer.scale.detach()[:, None]
    symbols = torch.round(codebooks * (1.0 / scale)).clamp(quantizer.qmin, quantizer.qmax)
    return symbols.cpu().to(torch.int16)


@torch.no_grad()
def _same(layer: nn.Module, symbols: Tensor) -> bool:
    """Whether `layer` computes with the same weights once `symbols` stand for them."""
    quantizer, weight = layer.get_submodule(WEIGHT), layer.get_parameter("weight")
    at = symbols.to(weight.device)
    if CODES in layer._buffers:
        restored = with_codebook(layer, at.to(weight.dtype) * quantizer.scale[:, None])  # type: ignore[index]
    else:
        restored = quantizer.to_float(at)  # type: ignore[operator]
    return torch.equal(quantizer(restored), quantizer(weight))


def codes(model: nn.Module) -> Symbols:
    """The codes of clustered layers as symbols in the order of their centroids, from the one next to zero."""
    found: Symbols = {}
    for path, layer in clustered_layers(model).items():
        own, centroids = layer.get_buffer(CODES).cpu(), codebook(layer).cpu().float()
        levels = centroids.shape[1]
        if own.numel() < FEWEST or int(own.max()) >= levels:
            continue
        largest = centroids[centroids.abs().sum(1).argmax()]
        centroids = (
            centroids * (centroids @ largest).sign()[:, None]
        )  # a norm may have turned a channel's signs
        mean = centroids.sum(0) / (centroids != 0).sum(0).clamp(min=1)  # over the rows that use a code
        order = mean.argsort(stable=True)
        center = int(mean[order].abs().argmin())
        symbols = (order.argsort()[own.long()] - center).to(torch.int16)
        bits = max(1, (levels - 1).bit_length())
        if symbols.any():
            name = f"{path}.{CODES}" if path else CODES
            found[name] = (symbols, {"center": center, "order": order.tolist(), "bits": bits})
    return found
