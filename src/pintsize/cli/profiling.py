"""The verbs that look at a network: `profile`, `show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .inputs import Inputs, Plain
from .verbs import Told, told, verb


@verb(place=21, data="optional")
def profile(*, inputs: Inputs) -> Told:
    """Count parameters, MACs, bytes and activation memory of a network, layer by layer."""
    from ..measure import profile as profile_network

    found = profile_network(inputs.network, inputs.example)
    return told(
        {"params": found.params, "macs": found.macs, "bytes": found.bytes, "layers": found.layers}, found
    )


@verb(place=92)
def show(
    file: Annotated[Path, typer.Argument(help="A .safetensors, .onnx or .pint file.")], *, model: Plain = None,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="H[xW]", help="Side of the images, or height x width, to count MACs at another size."),
    ] = None,
) -> Told:  # fmt: skip
    """Print a network layer by layer: shape, density, bits, bytes, MACs."""
    from ..report import show as show_network
    from .loading import load_model

    network = None if model is None else load_model(model)
    shown = show_network(file, model=network, image_size=image_size)
    result = {
        "file": file,
        "bytes": shown.file_bytes,
        "image_shape": shown.image_shape,
        "steps": shown.steps,
        "layers": shown.layers,
    }
    return told(result, shown)
