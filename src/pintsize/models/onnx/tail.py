"""Where a network ends and what is done with its results begins: boxes that are decoded, scores that are sorted."""

from __future__ import annotations

from collections.abc import Iterator

from .program import Program, Step, refs

_LAYERS = ("Conv", "Linear", "LSTM", "GRU", "RNN", "Embedding")
_MOVES = {"reshape", "transpose", "flatten", "squeeze", "unsqueeze", "split", "slice", "gather", "concat"}


def heads(program: Program) -> tuple[str, ...]:
    """Paths of the last layers, behind which others only reckon; none where their results are the network's own."""
    found: dict[str, None] = {}
    ends = {port.name for port in program.outputs}
    layers = list(_last_layers(program))
    if all(set(step.outputs) <= ends for step in layers):
        return ()
    for step in layers:
        found[step.target] = None
    return tuple(reversed(found))


def decoders(program: Program) -> tuple[str, ...]:
    """Paths of layers that weigh the places of a softmax (Li et al., 2006.04388, §3.1): a sum that stays in float."""
    made = {name: step for step in program.steps for name in step.outputs}
    return tuple(
        step.target for step in program.steps if _is_layer(program, step) and _of_softmax(program, made, step)
    )


def _last_layers(program: Program) -> Iterator[Step]:
    """Layers from whose result an output comes without another layer between, the last first."""
    skipped = set(decoders(program))
    open_values = {port.name for port in program.outputs}
    for step in reversed(program.steps):
        if not open_values & set(step.outputs):
            continue
        if _is_layer(program, step) and step.target not in skipped:
            yield step
        else:
            open_values.update(refs((step.args, step.options)))


def _is_layer(program: Program, step: Step) -> bool:
    return step.kind == "module" and str(program.modules[step.target]["class"]).startswith(_LAYERS)


def _of_softmax(program: Program, made: dict[str, Step], step: Step) -> bool:
    while True:
        read = refs(step.args[:1])
        behind = made.get(read[0]) if read else None
        if behind is None:
            return False
        if behind.kind == "module":
            return bool(program.modules[behind.target]["class"] == "Softmax")
        if behind.target not in _MOVES:
            return False
        step = behind
