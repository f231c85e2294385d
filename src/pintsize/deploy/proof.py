"""A file is run before it gets its name: the example through the runtime it is written for, against the simulation."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import CorruptFile, InputError, MissingExtra, OperationError, PintsizeError, VerificationFailed
from ..storage.atomic import unwritable
from .layers import first_beyond_rounding
from .onnx import writer as onnx
from .onnx.trace import evaluating
from .options import DIMENSIONS, ExportInfo, Made, Options, program_of
from .runtime import as_written, backends_of, copied, open_runtime
from .tolerance import FLOAT, explained, outputs_of, relative_error

_log = logging.getLogger(__name__)


def proved(made: Made) -> ExportInfo:
    """What is told of a file, with where it was run and how far it was from the simulation; it is not yet in its place.

    It costs one forward of the simulation, and opening and running the file once; two more of either where height and
    width are open, and more where they differ by more than float32 does. An example that is the same number everywhere
    tells nothing of most layers: random numbers take its place.

    Raises:
        VerificationFailed: an output differs by more than rounding explains; the first such layer is named.
        OperationError: the runtime cannot open or run the file.
        InputError: a dimension is left open, and the network takes no other size.
    """
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), evaluating(made.target):
        try:
            for path, content in made.files.items():
                (Path(folder) / path.name).write_bytes(content)
        except OSError as error:
            raise unwritable(made.info.path, error) from error
        staged = Path(folder) / made.info.path.name
        if staged.suffix == ".pint":
            return _read_back(made, staged)
        largest = 0.0
        for args, wanted in (_reference(made.target, made.args), *_at_other_sizes(made)):
            try:
                found = _run(staged, args)
            except MissingExtra:
                return made.info
            except PintsizeError as error:
                raise _unusable(made, error) from error
            largest = max(largest, _compared(made, staged, args, found, wanted))
    return replace(made.info, checked=backends_of(staged)[0], difference=largest)


def _compared(
    made: Made, staged: Path, args: tuple[Any, ...], found: list[Tensor], wanted: list[Tensor]
) -> float:
    """The largest relative error of an output.

    Raises:
        VerificationFailed: one differs by more than rounding explains.
    """
    backend = backends_of(staged)[0]
    errors = _held(made.info.path, backend, found, wanted)
    if max(errors, default=0.0) > FLOAT:
        allowed = explained(lambda: made.target(*copied(args)), wanted, enough=errors)
        off = [number for number, error in enumerate(errors) if error > allowed[number]]
        if off:
            raise _different(made, backend, args, off[0], errors[off[0]], allowed[off[0]], staged)
    return max(errors, default=0.0)


def _at_other_sizes(made: Made) -> Iterator[tuple[tuple[Any, ...], list[Tensor]]]:
    """Inputs of twice the height and of twice the width, where these are left open, and what the simulation gives.

    Raises:
        InputError: the network itself takes no other size.
    """
    shape = made.info.input_shape
    for dim in (2, 3) if len(shape) == len(DIMENSIONS) else ():
        if shape[dim] is not None:
            continue

        def larger(x: Tensor, dim: int = dim) -> Tensor:
            return torch.cat([x, x.flip(dim)], dim) if x.dim() == len(DIMENSIONS) else x

        args = tree_map_only(Tensor, larger, made.args)
        try:
            yield args, outputs_of(made.target(*copied(args)))
        except Exception as error:
            if program_of(made.target) is not None:
                continue  # it is the file that leaves the dimension open, not whoever writes this one
            sizes = "×".join(
                str(size) for size in next(x.shape for x in tree_leaves(args) if isinstance(x, Tensor))
            )
            raise InputError(
                f"{DIMENSIONS[dim]} in dynamic=",
                f"the network does not take images {sizes} ({type(error).__name__}: {error})",
                "leave it out: the network is made for one size",
            ) from error


def _reference(target: nn.Module, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[Tensor]]:
    """The inputs to prove with, and what the simulation gives for them."""
    telling = tree_map_only(Tensor, _varied, args)
    if any(a is not b for a, b in zip(tree_leaves(args), tree_leaves(telling), strict=True)):
        with contextlib.suppress(Exception):  # an input that may not be just any numbers
            wanted = outputs_of(target(*copied(telling)))
            if all(output.isfinite().all() for output in wanted):
                return telling, wanted
    return args, outputs_of(target(*copied(args)))


def _varied(x: Tensor) -> Tensor:
    if not x.is_floating_point() or x.numel() < 2 or bool((x != x.flatten()[0]).any()):
        return x
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)


def _run(path: Path, args: tuple[Any, ...]) -> list[Tensor]:
    with contextlib.closing(as_written(open_runtime(path, threads=torch.get_num_threads()))) as runtime:
        return outputs_of(runtime(*(leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor))))


def _held(path: Path, backend: str, found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    """The relative error of each output.

    Raises:
        VerificationFailed: there are more or fewer of them.
    """
    if len(found) != len(wanted):
        raise VerificationFailed(
            str(path),
            f"{backend} gives {len(found)} outputs where the model gives {len(wanted)}",
            "return each tensor once; nothing was written",
        )
    return [relative_error(ours, theirs) for ours, theirs in zip(found, wanted, strict=True)]


def _unusable(made: Made, error: PintsizeError) -> OperationError:
    _log.debug("the file of %s cannot be run", made.info.path, exc_info=error)
    return OperationError(
        str(made.info.path),
        f"nothing was written: {backends_of(made.info.path)[0]} cannot run what was made ({error.cause})",
        "export to another format, or pass check=False to have the file as it is",
    )


def _different(
    made: Made, backend: str, args: tuple[Any, ...], number: int, error: float, allowed: float, staged: Path
) -> VerificationFailed:
    where = _first_layer(made.target, staged, args, backend)
    which = "its output" if len(outputs_of(made.target(*copied(args)))) == 1 else f"its output {number}"
    place = f"the first layer that differs is {where}" if where else "no single layer could be made out"
    remedy = "export to another format, or pass check=False to have the file as it is"
    if where and where.split(" ")[0] in dict(made.target.named_modules()):
        remedy = f"leave that layer out with quantize(ignore=) if it is quantized, {remedy}"
    return VerificationFailed(
        str(made.info.path),
        f"nothing was written: in {backend} {which} is off by {error:.2g} of the largest, of which rounding explains "
        f"{allowed:.1g}; {place}",
        remedy,
    )


def _first_layer(target: nn.Module, staged: Path, args: tuple[Any, ...], backend: str) -> str | None:
    """The first layer that differs: read from the file, from the same network with its layers as outputs, or as ONNX."""
    if staged.suffix == ".onnx":
        return first_beyond_rounding(staged, target, args, backend=backend)
    if staged.suffix == ".pte":
        from .executorch import taps

        return taps.first_beyond_rounding(target, args)
    if staged.suffix != ".xml":
        return None
    twin = staged.with_suffix(".onnx")
    with contextlib.suppress(PintsizeError):
        twin.write_bytes(onnx.make(target, twin, Options(example=args)).files[twin])
        return first_beyond_rounding(twin, target, args, backend=backend)
    return None


def _read_back(made: Made, staged: Path) -> ExportInfo:
    """A `.pint` file holds the network itself: read, it must fit, and give the same outputs to the last bit."""
    import copy

    from ..storage.network_file import read_tensors

    try:
        read = copy.deepcopy(made.target)
        read.load_state_dict(read_tensors(staged)[0])
    except (RuntimeError, CorruptFile, InputError) as error:
        cause = error.cause if isinstance(error, PintsizeError) else str(error).partition("\n")[0]
        raise OperationError(
            str(made.info.path), f"nothing was written: it cannot be read back ({cause})", "use .safetensors"
        ) from error
    difference = None
    if made.args:
        pairs = zip(*(outputs_of(net(*copied(made.args))) for net in (read, made.target)), strict=True)
        difference = max((relative_error(ours, theirs) for ours, theirs in pairs), default=0.0)
        if difference:
            raise VerificationFailed(
                str(made.info.path),
                f"nothing was written: read back, the network's output is off by {difference:.2g} of the largest",
                "use .safetensors",
            )
    return replace(made.info, checked="torch", difference=difference)
