"""Which parameter a weight is computed from: as it is, as a view, masked, normalised by its length or standardised."""

from __future__ import annotations

from .ops import aten
from .trace import Trace, Value


def sources(trace: Trace) -> dict[Value, str]:
    """Values computed from parameters alone → the parameter that has as many elements, whose dimensions they have."""
    names = {value: name for name, value in trace.parameters.items()}
    computed = set(trace.parameters.values())
    for op in trace.all_ops:
        if not op.inputs or not all(value in computed or value.constant is not None for value in op.inputs):
            continue
        computed.update(op.outputs)
        for output in op.outputs:
            alike = [v for v in op.inputs if v in names and v.shape.numel() == output.shape.numel()]
            trained = [v for v in alike if trace.parameters[names[v]].is_parameter]
            if alike and output not in names:
                names[output] = names[(trained or alike)[0]]
    return names


def windows(trace: Trace) -> set[str]:
    """Parameters that are weights of convolutions: from their third dimension on they hold positions, not channels."""
    names = sources(trace)
    found = set()
    for op in trace.all_ops:
        if op.func.overloadpacket is aten.convolution and op.args[1] in names:
            name = names[op.args[1]]
            if trace.parameters[name].shape == op.args[1].shape:
                found.add(name)
    return found
