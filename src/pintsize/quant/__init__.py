"""Quantization: fewer bits for weights and activations, simulated exactly as the exported file computes."""

from .bias import reestimate_norms
from .calibrate import quantize
from .clustering import ClusteredLayer, ClusterResult, ClusterStep, cluster
from .convert import activation_quantizers, is_quantized, weight_layers
from .fixed_point import FixedPointResult, FixedPointStep, FixedPointTensor, fixed_point
from .fold import FoldStep, fold_batchnorm
from .integer import IntegerComparison, compare_with_integers, exact_simulation
from .levels import FixedPoint
from .mixed_precision import BitPlan, LayerBits, choose_bits
from .qat import QuantizationAware
from .quantizer import FakeQuantize
from .record import QuantizeStep
from .result import QuantizationResult, QuantizedActivation, QuantizedLayer

__all__ = [
    "BitPlan",
    "ClusterResult",
    "ClusterStep",
    "ClusteredLayer",
    "FakeQuantize",
    "FixedPoint",
    "FixedPointResult",
    "FixedPointStep",
    "FixedPointTensor",
    "FoldStep",
    "IntegerComparison",
    "LayerBits",
    "QuantizationAware",
    "QuantizationResult",
    "QuantizeStep",
    "QuantizedActivation",
    "QuantizedLayer",
    "activation_quantizers",
    "choose_bits",
    "cluster",
    "compare_with_integers",
    "exact_simulation",
    "fixed_point",
    "fold_batchnorm",
    "is_quantized",
    "quantize",
    "reestimate_norms",
    "weight_layers",
]
