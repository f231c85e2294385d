"""The figures of one run, drawn from its metrics and its model files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .run import Run, read
from .weights import open_tensors, quantized_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(run: Run) -> dict[str, Figure]:
    """All figures that the run has the facts for, by file name."""
    drawn = {name: make(run) for name, make in _MAKERS.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def save_figures(run_dir: str | os.PathLike[str]) -> list[Path]:
    """Write the figures of a run to its `figures/` folder as PNG, and all of that folder to TensorBoard.

    Raises:
        InputError, CorruptFile: as for `read`.
        OperationError: the folder cannot be written.
    """
    from ..viz import style

    run = read(run_dir)
    paths = []
    for name, figure in draw(run).items():
        path = run.path / "figures" / f"{name}.png"
        style.to_png(figure, path)
        paths.append(path)
    if paths:
        _to_tensorboard(run.path)
    return paths


def _to_tensorboard(run: Path) -> None:
    """The pictures in `figures/` as events in `tensorboard/figures/`, in place of older ones."""
    from PIL import Image
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    from ..training.events import EventFile

    folder = run / "tensorboard" / "figures"
    older = list(folder.glob("events.*"))
    events = EventFile(folder)
    try:
        for old in older:
            old.unlink()
        for file in sorted((run / "figures").glob("*.png")):
            with Image.open(file) as picture:
                width, height = picture.size
                colours = len(picture.getbands())
            image = Summary.Image(
                width=width, height=height, colorspace=colours, encoded_image_string=file.read_bytes()
            )
            events.write(Event(summary=Summary(value=[Summary.Value(tag=file.stem, image=image)])))
    finally:
        events.close()


def _stages(run: Run) -> Figure | None:
    from ..viz.stages import stage_bars

    if len(run.metrics.stages) < 2:
        return None
    return stage_bars([stage.model_dump(exclude_none=True) for stage in run.metrics.stages])


def training_figure(run: Run) -> Figure:
    """Loss and accuracy over all epochs of a run, with the ends of recoveries.

    Raises:
        InputError: no epoch has ended in it.
    """
    from ..viz.training import training_curves

    epochs = [epoch for history in run.metrics.histories.values() for epoch in history]
    ends = [number for number, epoch in enumerate(epochs, 1) if epoch.get("ends")]
    return training_curves(run.metrics.histories, recovery_ends=ends)


def _training(run: Run) -> Figure | None:
    return training_figure(run) if any(run.metrics.histories.values()) else None


def _attention(run: Run) -> Figure | None:
    from ..viz.training import layer_epoch_heatmap

    kept = [epoch["kept"] for epoch in run.metrics.histories.get("attention", ()) if epoch.get("kept")]
    return layer_epoch_heatmap(kept) if kept else None


def _left(run: Run) -> Figure | None:
    from ..viz.training import left_over_epochs

    history = [
        epoch for epoch in run.metrics.histories.get("attention", ()) if epoch.get("params") is not None
    ]
    ends = [number for number, epoch in enumerate(history, 1) if epoch.get("ends")]
    return left_over_epochs(history, recovery_ends=ends) if history else None


def _frontier(run: Run) -> Figure | None:
    from ..pruning.attention.pictures import frontier

    history = run.metrics.histories.get("attention", [])
    dense = run.metrics.stages[0].params if run.metrics.stages else None
    return frontier(history, dense) if dense and any(epoch.get("ends") for epoch in history) else None


def _sensitivity(run: Run) -> Figure | None:
    from ..pruning.scans.scan import Sensitivity

    file = run.path / "sensitivity.json"
    if not file.is_file() or not Sensitivity.finished(file):
        return None
    return Sensitivity.load(file).plot(max_drop=(run.metrics.recipe.get("rules") or {}).get("max_drop"))


def _rounds(run: Run) -> Figure | None:
    from ..pruning.staged.staged import round_figures

    rounds = [row.model_dump() for row in run.metrics.rounds]
    return round_figures(rounds)["rounds"] if rounds else None


def _filters(run: Run) -> Figure | None:
    from ..pruning.staged.staged import round_figures
    from ..viz.stages import filters_per_layer

    if run.metrics.rounds:
        return round_figures([row.model_dump() for row in run.metrics.rounds])["filters"]

    before, after = (_filter_counts(run.path / f"{stage}.safetensors") for stage in ("dense", "pruned"))
    both = {name: [count, after[name]] for name, count in before.items() if name in after}
    return filters_per_layer(both) if any(a != b for a, b in both.values()) else None


def _filter_counts(file: Path) -> dict[str, int]:
    """Output channels of each convolution, read from the header alone."""
    if not file.is_file():
        return {}
    with open_tensors(file) as stored:
        shapes = {name: stored.get_slice(name).get_shape() for name in stored.keys()}  # noqa: SIM118 (no mapping)
    return {
        name.removesuffix(".weight"): shape[0]
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) > 2
    }


def _weights(run: Run) -> Figure | None:
    """Of the quantized layer with the most weights: a histogram before, levels after."""
    from ..viz.weights import weight_histogram

    largest = max(quantized_layers(run), key=lambda layer: layer.before.numel(), default=None)
    if largest is None:
        return None
    by_channel = largest.scale if len(largest.scale) == len(largest.before) else None
    return weight_histogram(largest.before, largest.after, scale=by_channel, layer=largest.name)


def _errors(run: Run) -> Figure | None:
    from ..viz.quantization import quantization_error

    pairs = {layer.name: (layer.before, layer.after) for layer in quantized_layers(run)}
    return (
        quantization_error(pairs, bits={layer.name: layer.bits for layer in quantized_layers(run)})
        if pairs
        else None
    )


_MAKERS: dict[str, Callable[[Run], Figure | None]] = {
    "stages": _stages,
    "training": _training,
    "sensitivity": _sensitivity,
    "rounds": _rounds,
    "kept": _attention,
    "left": _left,
    "frontier": _frontier,
    "filters": _filters,
    "weights": _weights,
    "quantization": _errors,
}
NAMES = tuple(_MAKERS)
"""Of the figures that `draw` may give."""
