"""Options that commands take from the recipe's fields, and those that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from ..recipe.options import OPTIONS, Option, changes
from ..recipe.recipe import Recipe
from ..recipe.section import switches_off

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A name (see `pintsize models`), package.module:factory, or a .safetensors file.",
    ),
]
ModelWeights = Annotated[
    str | None, typer.Option(help="Weights to load into the model: .safetensors, .pth or .th.")
]
NumClasses = Annotated[int | None, typer.Option(help="Number of logits of a named model.")]
InChannels = Annotated[int | None, typer.Option(help="Colour channels of an image, for a named model.")]
Stem = Annotated[str, typer.Option(help="First layers of a named model: auto, imagenet or small.")]
ImageSize = Annotated[int | None, typer.Option(help="Side of the images in pixels.")]
Data = Annotated[
    str, typer.Option("--data", "-d", help="A data set (see `pintsize datasets`) or imagefolder:PATH.")
]
OptionalData = Annotated[
    str | None, typer.Option("--data", "-d", help="A data set (see `pintsize datasets`) or imagefolder:PATH.")
]
ValFraction = Annotated[float, typer.Option(help="Share of the training images set aside for validation.")]
Limit = Annotated[int | None, typer.Option(help="Use at most so many images of each split.")]
Seed = Annotated[int, typer.Option(help="Decides the validation split and everything random.")]
Threads = Annotated[int, typer.Option(help="Threads of the runtime.")]
Backend = Annotated[str | None, typer.Option(help="Runtime; by default the one that fits the file.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="File to write.")]
Teacher = Annotated[
    Path | None, typer.Option(help="A .safetensors file of a network whose outputs are learned, too.")
]
DistillWeight = Annotated[float, typer.Option(help="Share of the teacher in the loss.")]
Temperature = Annotated[float, typer.Option(help="Softens the outputs of teacher and student.")]
Checkpoint = Annotated[Path | None, typer.Option(help="File to resume from, written after each epoch.")]
LogDir = Annotated[Path | None, typer.Option(help="Folder for TensorBoard events.")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Show the log; -vv more of it, in the file, too.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

_TITLES = {
    "model": "Model",
    "data": "Data",
    "train": "Training",
    "prune": "Pruning",
    "budget": "Budget, instead of an amount to prune",
    "recover": "Recovery after pruning",
    "quantize": "Quantization",
    "qat": "Training of the quantized network",
    "export": "Export",
    "seed": "Chance",
}


def section_options(*sections: str, without: Iterable[str] = ()) -> list[Option]:
    """The options of some sections of the recipe."""
    left_out = set(without)
    return [
        option
        for name, option in OPTIONS.items()
        if option.key.partition(".")[0] in sections and name not in left_out
    ]


def with_recipe_options(*options: Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command whose last parameter is `**options` an option for each field of a recipe.

    What is not given on the command line is not in `options`, so that the recipe's value or the
    default stands.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {option.name: values.pop(option.name) for option in options}
            command(**values, **{name: value for name, value in given.items() if value not in (None, [])})

        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [_parameter(option) for option in options]
        shown = signature.replace(parameters=[*own, *added])
        run.__signature__ = shown  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
        del run.__wrapped__  # inspect.signature would look through to the command
        return run

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    panel = _TITLES[option.key.partition(".")[0]]
    about = typer.Option(help=_help(option), rich_help_panel=panel, show_default=False)
    plain = str if switches_off(option.type, option.default) else _plain_type(option.type)  # may be `none`
    kind: Any = Annotated[plain | None, about]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _help(option: Option) -> str:
    """The field's description with its choices and its default."""
    text, default = " ".join(option.description.split()).replace("`", "").rstrip("."), option.default
    notes = [" | ".join(map(str, get_args(option.type)))] if get_origin(option.type) is Literal else []
    if isinstance(default, bool):
        notes.append(f"default {'on' if default else 'off'}")
    elif default is not None and default != ():
        notes.append(f"default {default}")
    return f"{text} ({'; '.join(notes)})." if notes else f"{text}."


def _plain_type(annotation: Any) -> Any:
    """The type that typer parses: `float | None` → float, tuples → a repeatable option."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if Literal in (get_origin(annotation), *map(get_origin, parts)):
        return str
    for part in (annotation, *parts):
        if get_origin(part) is tuple:
            return list[get_args(part)[0]]  # type: ignore[misc]
    return parts[0] if parts else annotation


def section_values(section: str, options: dict[str, Any]) -> dict[str, Any]:
    """`options` checked as a section of the recipe, its defaults filled in.

    Raises:
        InputError: a value out of range.
    """
    document: dict[str, Any] = {"quantize": None, section: {}}
    for key, value in changes(options).items():
        document[section][key.partition(".")[2]] = value
    values: dict[str, Any] = getattr(Recipe.parse(document, source="options"), section).model_dump()
    return values
