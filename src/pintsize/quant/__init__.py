"""Quantization: fewer bits for weights and activations, simulated exactly as the exported file computes."""

from .bits.allocation import BitPlan, LayerBits, choose_bits
from .clustering.clustering import ClusteredLayer, ClusterResult, ClusterStep, cluster
from .fixedpoint import FixedPointResult, FixedPointStep, FixedPointTensor, fixed_point
from .grid.levels import FixedPoint
from .grid.quantizer import FakeQuantize
from .integer.run import IntegerComparison, compare_with_integers, exact_simulation
from .network.bake import BakeStep
from .network.convert import activation_quantizers, is_quantized, weight_layers
from .network.fold import FoldStep, fold_batchnorm
from .network.record import QuantizeStep
from .ptq.bias import reestimate_norms
from .ptq.calibrate import quantize
from .ptq.result import FloatLayer, QuantizationResult, QuantizedActivation, QuantizedLayer
from .qat import LateFreezing, QuantizationAware, oscillation

__all__ = [
    "BakeStep",
    "BitPlan",
    "ClusterResult",
    "ClusterStep",
    "ClusteredLayer",
    "FakeQuantize",
    "FixedPoint",
    "FixedPointResult",
    "FixedPointStep",
    "FixedPointTensor",
    "FloatLayer",
    "FoldStep",
    "IntegerComparison",
    "LateFreezing",
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
    "oscillation",
    "quantize",
    "reestimate_norms",
    "weight_layers",
]
