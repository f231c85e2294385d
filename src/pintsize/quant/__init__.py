"""Quantization: fewer bits for weights and activations, simulated exactly as the exported file computes."""

from .bias import reestimate_norms
from .calibrate import quantize
from .clustering import ClusteredLayer, ClusterResult, ClusterStep, cluster
from .convert import activation_quantizers, is_quantized, weight_layers
from .fold import FoldStep, fold_batchnorm
from .qat import QuantizationAware
from .quantizer import FakeQuantize
from .record import QuantizeStep
from .result import QuantizationResult, QuantizedActivation, QuantizedLayer

__all__ = [
    "ClusterResult",
    "ClusterStep",
    "ClusteredLayer",
    "FakeQuantize",
    "FoldStep",
    "QuantizationAware",
    "QuantizationResult",
    "QuantizeStep",
    "QuantizedActivation",
    "QuantizedLayer",
    "activation_quantizers",
    "cluster",
    "fold_batchnorm",
    "is_quantized",
    "quantize",
    "reestimate_norms",
    "weight_layers",
]
