"""`pintsize viz PICTURE …`: every picture of `pintsize.viz`, drawn from files."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import viz as pictures  # each is imported when it is drawn
from .inputs import DataName, ImageSize, Limit, Plain, Seed, ValFraction
from .loading import load_data
from .output import emit, figures
from .picture_sources import cost_of, labels, network_of
from .verbs import AsJson, shown_as

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # typer reads the annotations, and must not load matplotlib for that

app = typer.Typer(help="Draw a picture of a network, a scan, a run or a benchmark.", no_args_is_help=True)

_WHAT = "a .safetensors or .pint file, a name (see `pintsize models`) or package.module:factory."
Network = Annotated[str, typer.Argument(help=f"Network: {_WHAT}")]
Networks = Annotated[list[str], typer.Argument(help=f"Networks, in order, each {_WHAT}")]
Layer = Annotated[str | None, typer.Option(help="Path of the layer; by default one is chosen.")]
Scan = Annotated[Path, typer.Argument(help="What a scan wrote, .json.")]
Run = Annotated[Path, typer.Argument(help="Folder of a run.")]
Runs = Annotated[list[Path], typer.Argument(help="Folders of runs.")]
Cost = Annotated[str, typer.Option(help="What is across: bytes, latency_ms, macs or params.")]
_Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="File to write: .png, .svg or .pdf; by default the picture's name, .png."),
]  # fmt: skip
_Most = Annotated[int, typer.Option(help="The first so many are drawn.")]


def picture(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Make a verb of a function: it gets `--out` and `--json`, and its figure is written."""
    name = draw.__name__.replace("_", "-")

    @functools.wraps(draw)
    def run(*, out: Path | None, as_json: bool, **inputs: Any) -> None:
        from ..viz import description, save

        figure = draw(**inputs)
        path = out or Path(f"{name}.png")
        save(figure, path)
        told = {"figure": path, "description": description(figure)}
        emit(told, f"{path}: {description(figure)}", as_json=as_json)

    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("out", keyword, default=None, annotation=_Out),
        inspect.Parameter("as_json", keyword, default=False, annotation=AsJson),
    ]
    shown_as(run, [*inspect.signature(draw, eval_str=True).parameters.values(), *added])
    app.command(name, no_args_is_help=True)(run)
    return draw


@picture
def display_kernels(
    network: Network, *, model: Plain = None, layer: Layer = None, most: _Most = 64
) -> Figure:
    """Kernels of a convolution as heat maps."""
    return pictures.display_kernels(network_of(network, model), layer, most=most)


@picture
def display_scatter(
    first: Network, second: Network, *, model: Plain = None,
    decimals: Annotated[int, typer.Option(help="Weights are rounded to so many before they are counted.")] = 3,
) -> Figure:  # fmt: skip
    """How often each weight value occurs in two networks."""
    names = labels([first, second])
    return pictures.display_scatter(
        network_of(first, model), network_of(second, model), labels=(names[0], names[1]), decimals=decimals
    )  # fmt: skip


@picture
def display_activations(
    network: Network, *, data: DataName, model: Plain = None, most: _Most = 40, image_size: ImageSize = None,
    image: Annotated[int, typer.Option(help="Which validation image, from 0.")] = 0,
) -> Figure:  # fmt: skip
    """An image and what every activation function makes of it."""
    from ..errors import InputError

    images = load_data(data, image_size=image_size)
    if not 0 <= image < len(images.val):
        cause = f"there are {len(images.val)} validation images"
        raise InputError(f"image={image}", cause, "pass a smaller number, from 0")
    batch = next(iter(images.val.subset(image + 1).batches(batch_size=image + 1)))[0]
    return pictures.display_activations(network_of(network, model), batch[image], most=most)


@picture
def kept_weights(network: Network, *, model: Plain = None) -> Figure:
    """Share of the weights that is not zero, layer by layer."""
    return pictures.kept_weights(network_of(network, model))


@picture
def filter_norms(
    network: Network, *, model: Plain = None, order: Annotated[int, typer.Option(help="Of the norm: 1 or 2.")] = 1
) -> Figure:  # fmt: skip
    """Norms of each layer's filters, sorted."""
    return pictures.filter_norms(network_of(network, model), order=order)


@picture
def channel_box(network: Network, *, model: Plain = None, layer: Layer = None) -> Figure:
    """Spread of the weights of each output channel of a layer."""
    from ..viz.weights import layer_of

    name, weight = layer_of(network_of(network, model), layer)
    return pictures.channel_box(weight, layer=name)


@picture
def weight_histogram(
    network: Network, *, model: Plain = None, layer: Layer = None,
    before: Annotated[
        str | None, typer.Option(help="The network before; by default the float weights of a quantized one.")
    ] = None,
) -> Figure:  # fmt: skip
    """Weights of a layer before and after quantization, with the levels."""
    import torch

    from ..viz.weights import layer_of

    after = network_of(network, model)
    name, weight = layer_of(after, layer)
    quantizer = getattr(after.get_submodule(name), "weight_quantizer", None)
    first = weight if before is None else layer_of(network_of(before, model), name)[1]
    if quantizer is None:
        return pictures.weight_histogram(first, None if before is None else weight, layer=name)
    with torch.no_grad():
        levels, scale = quantizer(weight), quantizer.scale.detach()
    one_each = scale if len(scale) in {1, len(weight)} else None
    return pictures.weight_histogram(first, levels, scale=one_each, layer=name)


@picture
def quantization_error(network: Network, *, model: Plain = None) -> Figure:
    """Error that quantization leaves in each layer's weights (SQNR)."""
    return pictures.quantization_error(network_of(network, model))


@picture
def bits_per_layer(network: Network, *, model: Plain = None) -> Figure:
    """Width of each layer's weights."""
    return pictures.bits_per_layer(network_of(network, model))


@picture
def channel_group_graph(
    network: Network, *, model: Plain = None, data: DataName | None = None, image_size: ImageSize = None
) -> Figure:  # fmt: skip
    """Which layers share their channels."""
    from ..graph import channel_groups
    from ..run.networks import example_for

    images = None if data is None else load_data(data, image_size=image_size)
    plain = network_of(network, model)
    groups = channel_groups(plain, example_for(plain, images, image_size))
    return pictures.channel_group_graph(groups, model=plain)


@picture
def filters_per_layer(networks: Networks, *, model: Plain = None) -> Figure:
    """Filters of each layer, network by network."""
    from ..viz.weights import layer_weights

    found = [layer_weights(network_of(name, model)) for name in networks]
    counts = {
        layer: [len(weights[layer]) for weights in found]
        for layer, weight in found[0].items()
        if weight.dim() > 2 and all(layer in weights for weights in found)
    }
    return pictures.filters_per_layer(counts, labels=labels(networks))


@picture
def round_bars(
    networks: Networks, *, data: DataName, model: Plain = None, val_fraction: ValFraction = 0.1, limit: Limit = None,
    image_size: ImageSize = None, seed: Seed = 0,
) -> Figure:  # fmt: skip
    """Parameters, MACs, bytes and validation accuracy, or the metric of another task, network by network."""
    from ..measure import profile
    from ..run.networks import example_for
    from ..training import evaluate

    images = load_data(data, val_fraction=val_fraction, limit=limit, image_size=image_size, seed=seed)
    rounds = []
    for name, label in zip(networks, labels(networks), strict=True):
        network = network_of(name, model)
        cost = profile(network, example_for(network, images, image_size))
        costs = {"params": cost.params, "macs": cost.macs, "bytes": cost.bytes}
        rounds.append({"name": label, **figures(evaluate(network, images.val), images), **costs})
    return pictures.round_bars(rounds)


@picture
def sensitivity_curves(
    scan: Scan, *,
    max_drop: Annotated[
        float | None, typer.Option(help="Points, or units of another metric, tolerated; drawn as a line.")
    ] = None,
) -> Figure:  # fmt: skip
    """Accuracy over the fraction removed, one layer at a time."""
    from ..pruning import Sensitivity

    return Sensitivity.load(scan).plot(max_drop=max_drop)


@picture
def layer_importance(
    scan: Scan, *,
    retrained: Annotated[
        Path | None, typer.Option(help="What `pintsize scan --epochs N --json` printed of the same network.")
    ] = None,
) -> Figure:  # fmt: skip
    """Accuracy as each layer's smallest filters go, without and with retraining."""
    from ..pruning import Sensitivity
    from ..report.printed import retrained_curves

    after = None if retrained is None else retrained_curves(retrained)
    found = Sensitivity.load(scan)
    return pictures.layer_importance(found.by_layer(), after, scale=found.scale)


@picture
def training_curves(run: Run) -> Figure:
    """Loss and accuracy over the epochs of a run, with the ends of recoveries."""
    from ..report.figures import training_figure
    from ..training import History

    return pictures.training_curves(History.load(run)) if run.is_file() else training_figure(_read(run))


@picture
def layer_epoch_heatmap(run: Run) -> Figure:
    """Which layers an attention pruning cut when."""
    from ..errors import InputError

    histories = _read(run).metrics.histories.values()
    kept = [epoch["kept"] for history in histories for epoch in history if epoch.get("kept")]
    if not kept:
        raise InputError(str(run), "it did not prune by attention", "pass a run whose recipe has attention:")
    return pictures.layer_epoch_heatmap(kept)


@picture
def left_over_epochs(run: Run) -> Figure:
    """Channels, parameters and MACs that an attention pruning left, epoch by epoch."""
    history = _read(run).metrics.histories.get("attention", [])
    ends = [number for number, epoch in enumerate(history, 1) if epoch.get("ends")]
    return pictures.left_over_epochs(history, recovery_ends=ends)


@picture
def stage_bars(run: Run) -> Figure:
    """Accuracy, parameters, MACs, bytes and latency of each stage of a run."""
    stages = _read(run, unfinished=False).metrics.stages
    return pictures.stage_bars([stage.model_dump(exclude_none=True) for stage in stages])


@picture
def accuracy_compression(runs: Runs, *, cost: Cost = "bytes") -> Figure:
    """Accuracy against a cost: the final networks of runs, or the stages of one; with the Pareto front."""
    from ..report.compare import points

    return pictures.accuracy_compression(points(runs, all_stages=len(runs) == 1), cost=cost_of(cost))


@picture
def bits_frontier(runs: Runs, *, cost: Cost = "bytes") -> Figure:
    """Accuracy against a cost, a series for each width of weights and activations."""
    from ..report.compare import points

    series: dict[str, list[dict[str, Any]]] = {}
    for point in points(runs):
        series.setdefault(point["bits"], []).append(point)
    return pictures.bits_frontier(series, cost=cost_of(cost))


@picture
def runtime_bars(
    benchmarks: Annotated[list[Path], typer.Argument(help="What `pintsize bench … --json` printed.")],
) -> Figure:
    """Latency and size of files, across runtimes."""
    from ..report.printed import benchmarks as measured

    return pictures.runtime_bars(measured(benchmarks))


def _read(run: Path, *, unfinished: bool = True) -> Any:
    from ..report.run import read

    return read(run, unfinished=unfinished)
