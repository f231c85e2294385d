"""Verbs about deployed files: `export`, `unpack`, `verify`, `bench`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any

import typer

from ..tables import jsonable
from . import loading
from .inputs import Backend, DataName, ImageSize, Inputs, Out, Plain, Threads
from .verbs import Told, told, verb


@verb(place=50, data="optional")
def export(
    *, inputs: Inputs, out: Out,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set, 19 or later.")] = None,
    dynamic_batch: Annotated[bool, typer.Option(help="Leave the number of images open.")] = True,
    include_normalization: Annotated[
        bool, typer.Option(help="Take images in [0, 1]; needs --data, whose mean and deviation go in.")
    ] = False,
    include_softmax: Annotated[bool, typer.Option(help="Give probabilities instead of logits.")] = False,
    licence: Annotated[str | None, typer.Option(help="Of the weights, kept in the file.")] = None,
) -> Told:  # fmt: skip
    """Write the file that is deployed; its suffix says which format."""
    from ..deploy import export as export_network
    from ..units import bytes_text

    images, network = inputs.images_if_any, inputs.network
    about: dict[str, Any] = {}
    if images is not None:
        about = {"classes": images.classes, "mean": images.mean, "std": images.std}
    written = export_network(
        network,
        out,
        example=inputs.example,
        opset=opset,
        dynamic_batch=dynamic_batch,
        include_normalization=include_normalization,
        include_softmax=include_softmax,
        licence=licence,
        **about,
    )
    shape = "×".join("N" if size is None else str(size) for size in written.input_shape)
    result = {"file": out, "format": written.format, "bytes": written.bytes, "input_shape": written.input_shape,
              "checked": written.checked}  # fmt: skip
    proof = "not run" if written.checked == "not run" else f"right in {written.checked}"
    return told(result, f"{out}: {bytes_text(written.bytes)}, input {shape}, {proof}")


@verb(place=51)
def unpack(
    file: Annotated[Path, typer.Argument(help="The .pint file.")], *, out: Out, model: Plain = None,
    data: DataName | None = None, image_size: ImageSize = None,
    licence: Annotated[
        str | None, typer.Option(help="Of the weights, kept in the deployed file; by default the .pint file's.")
    ] = None,
) -> Told:  # fmt: skip
    """Turn a .pint file into a .safetensors file, or into one that is deployed."""
    from ..deploy.pint import format as pint
    from ..run.networks import example_for
    from ..storage.network_file import load
    from ..units import bytes_text

    images = None if data is None else loading.load_data(data, image_size=image_size)
    plain = None if model is None else loading.load_model(model, images, image_size=image_size)
    options: dict[str, Any] = {} if licence is None else {"licence": licence}
    if out.suffix != ".safetensors":
        options["example"] = example_for(load(file, model=copy.deepcopy(plain)), images, image_size)
    pint.unpack(file, out, model=plain, **options)
    before, after = file.stat().st_size, out.stat().st_size
    result = {"file": out, "bytes": after, "from": file, "from_bytes": before}
    return told(result, f"{out}: {bytes_text(after)}, from {bytes_text(before)}")


@verb(place=52, data="needed")
def verify(
    file: Annotated[Path, typer.Argument(help="The exported file.")], *, inputs: Inputs,
    split: Annotated[str, typer.Option(help="Images to compare on: train, val or test.")] = "val",
    against: Annotated[
        Path | None, typer.Option(help="Another file, timed in turns with this one, in the same runtime if that opens it.")
    ] = None,
    agreement_at_least: Annotated[
        float, typer.Option(help="Percent of images with the same top class below which the command fails.")
    ] = 99.0,
    threads: Threads = 2, backend: Backend = None,
) -> Told:  # fmt: skip
    """Hold an exported file against the model it came from, in the real runtime."""
    from ..deploy import verify as verify_file
    from ..errors import unknown

    if split not in {"train", "val", "test"}:
        raise unknown("split", split, ("train", "val", "test"))
    images, network = inputs.images, inputs.network
    found = verify_file(
        file,
        network,
        getattr(images, split),
        against=against,
        threads=threads,
        backend=backend,
        agreement_at_least=agreement_at_least,
    )
    return told(jsonable(found), str(found))


@verb(place=53)
def bench(
    files: Annotated[
        list[str], typer.Argument(help="Exported files; they take turns. FILE@BACKEND runs one in a runtime of its own.")
    ],
    *, batch: Annotated[int, typer.Option(help="Images per call.")] = 1,
    warmup: Annotated[int, typer.Option(help="Calls that are not timed.")] = 10,
    repeats: Annotated[int, typer.Option(help="Calls that are.")] = 50, threads: Threads = 2, backend: Backend = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the times and sizes here: .png or .svg.")] = None,
) -> Told:  # fmt: skip
    """Time exported files side by side, with their bytes and peak memory."""
    from ..deploy.benchmark import benchmark
    from ..errors import unknown
    from ..measure import machine

    if figure is not None and figure.suffix not in {".png", ".svg"}:
        raise unknown("kind of picture", figure.suffix, (".png", ".svg"))
    found = benchmark(files, backend=backend, batch=batch, warmup=warmup, repeats=repeats, threads=threads)
    if figure is not None:
        from ..viz import runtime_bars, save

        save(runtime_bars({row["name"]: row for row in found.rows}), figure)
    values = {"batch": batch, "threads": threads, "machine": machine(), "files": found.rows}
    return told(values, found)
