"""One safetensors file that holds weights and record.

Nothing here unpickles: `.pt`/`.pth`/`.th` state dicts are read with `weights_only=True`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CorruptFile, InputError
from ..registry import Registry
from . import record as _record
from .atomic import check_place, write_bytes
from .wrapped import bare, check_changeable, without_prefixes


@dataclass(frozen=True)
class FileFormat:
    """A format besides safetensors that `save` writes and `load` reads."""

    write: Callable[[nn.Module, Path], object]
    """Writes a network with its record."""
    read: Callable[[Path], tuple[dict[str, Tensor], dict[str, Any]]]
    """As `read_tensors`."""


FORMATS: Registry[FileFormat] = Registry("file format")
"""By suffix."""
NETWORKS: Registry[Callable[..., nn.Module]] = Registry("network")
"""What makes the plain network that a file names: it is given the options noted beside the name. What stands under a
prefix such as `timm:` makes all networks whose names begin so, and is given the name first."""

_KEY = "pintsize"
_MARKS = ('"sha256"', '"aliases"', '"steps"')  # what our record holds, under whatever name
_FREE, _PER_NUMBER = 2**28, 64
"""A file may name a network of so many parameters, and so many more for each number in it: pruning leaves few."""


def check_savable(path: str | os.PathLike[str]) -> None:
    """`check_place`, and that the suffix is one that `save` writes."""
    _check_suffix(Path(path))
    check_place(path)


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write weights and record of `model` to one file, atomically.

    Args:
        model: any module; what pintsize did to it is in its record.
        path: ends in `.safetensors`, or in `.pint` for the smallest file; a `.pint` file keeps of a
            quantized weight its integers, not the float it was rounded from.

    Raises:
        InputError: another suffix; or `model` was changed as a part of a larger network.
        OperationError: the file cannot be written; an older file of that name is intact.
    """
    path = Path(path)
    _check_suffix(path)
    _record.check_whole(model, str(path))
    if path.suffix != ".safetensors":
        with bare(model) as network:
            FORMATS[path.suffix].write(network, path)
        return
    from safetensors.torch import save as to_bytes

    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[int, torch.Size, tuple[int, ...], torch.dtype], str] = {}
    with bare(model) as network:
        state = network.state_dict()
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            aliases[name] = first[key]  # a tied weight is stored once
        else:
            first[key] = name
            tensors[name] = tensor.detach().cpu().contiguous()
    document = {**_record.to_json(model), "aliases": aliases, "sha256": _digest(tensors)}
    write_bytes(path, to_bytes(tensors, metadata={_KEY: json.dumps(document)}))


def _check_suffix(path: Path) -> None:
    if path.suffix != ".safetensors" and path.suffix not in FORMATS:
        raise InputError(
            str(path),
            f"the suffix {path.suffix!r} is not one that save writes",
            "use .safetensors or .pint; the formats that runtimes read are for pintsize.export",
        )


def load(path: str | os.PathLike[str], *, model: nn.Module | None = None) -> nn.Module:
    """Read a network that `save` wrote, or a plain state dict.

    Args:
        path: `.safetensors` or `.pint`; `.pt`, `.pth` and `.th` only as plain state dicts.
        model: the plain network, changed in place; needed only if it is not from `pintsize.models`.

    Returns:
        The network in eval mode, with its record.

    Raises:
        CorruptFile: the file is damaged.
        InputError: the file does not exist or does not fit `model`.
    """
    path = Path(path)
    tensors, document = read_tensors(path)
    try:
        if document is not None:
            steps = _record.steps_from_json(document, source=str(path))
        if model is None:
            model = _plain_model(path, document, tensors)
        if document is not None:
            if steps:
                check_changeable(model)  # before any of it is changed
            with bare(model) as network:
                _record.replay(network, steps, source=str(path))
    except (RecursionError, OverflowError, MemoryError) as error:
        raise CorruptFile(
            str(path), f"its record cannot be carried out ({error})", "restore it from a copy"
        ) from error
    with bare(model) as network:
        load_tensors(network, tensors, source=str(path))
    return model.eval()


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a file, and pintsize's document in it (None for a plain state dict).

    Raises:
        CorruptFile: the file is damaged.
        InputError: there is no such file, or its suffix is another.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(str(path), "there is no such file", "check the path")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in {".pt", ".pth", ".th", ".bin"}:
        return _read_state_dict(path), None
    if path.suffix in FORMATS:
        return FORMATS[path.suffix].read(path)
    raise InputError(
        str(path),
        f"the suffix {path.suffix!r} is not one that load reads",
        "use .safetensors or .pint, or a .pt, .pth or .th state dict",
    )


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy `tensors` into `model`; every name and shape must match, or nothing is changed."""
    own = model.state_dict()
    tensors = {without_prefixes(name, own): tensor for name, tensor in tensors.items()}
    if "n_averaged" not in own:  # the counter of torch's AveragedModel
        tensors.pop("n_averaged", None)
    # files from before PyTorch 0.4.1 lack these counters; nothing but momentum=None reads them
    counters = {
        name: own[name] for name in own.keys() - tensors.keys() if name.endswith("num_batches_tracked")
    }
    tensors = {**tensors, **counters}
    for problem, names in (
        ("is missing", own.keys() - tensors.keys()),
        ("is not in the model", tensors.keys() - own.keys()),
    ):
        if names:
            some = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise InputError(source, f"tensor {some} {problem}", "pass the network this file was saved from")
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            raise InputError(
                f"{source}, tensor {name}",
                f"its shape is {tuple(tensor.shape)}, the model's is {tuple(own[name].shape)}",
                "create the model with the same options (num_classes, in_channels, …) as when it was saved",
            )
    model.load_state_dict(tensors)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        document = json.loads(metadata[_KEY]) if _KEY in metadata else None
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CorruptFile(
            str(path), f"it is not a whole safetensors file ({error})", "restore it from a copy"
        ) from error
    if document is None:
        if any(sum(mark in text for mark in _MARKS) > 1 for text in metadata.values()):
            raise CorruptFile(str(path), "the name of its record is damaged", "restore it from a copy")
        return tensors, None
    if not isinstance(document, dict) or not isinstance(document.get("aliases", {}), dict):
        raise CorruptFile(str(path), "its metadata is not pintsize's", "write the file again with ps.save")
    if document.get("sha256") != _digest(tensors):
        raise CorruptFile(str(path), "its weights do not match their checksum", "restore it from a copy")
    for alias, name in document.get("aliases", {}).items():
        if name not in tensors:
            raise CorruptFile(
                str(path), f"tensor {alias} stands for {name}, which is missing", "restore it from a copy"
            )
        tensors[alias] = tensors[name]
    return tensors, document


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged stream makes the unpickler trip over
        # torch's own message advises to run what is in the file; it stays in the chain of causes
        raise CorruptFile(
            str(path),
            "it is damaged, or holds more than a plain state dict",
            "save model.state_dict(), never the module itself: pickled code is not run",
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CorruptFile(str(path), "it does not hold a dictionary of tensors", "save model.state_dict()")
    return content


def _maker(name: Any) -> Callable[..., nn.Module]:
    """What makes the networks of this name."""
    prefix = f"{name}".partition(":")[0] + ":"
    if name not in NETWORKS and isinstance(name, str) and name.startswith(prefix) and prefix in NETWORKS:
        return functools.partial(NETWORKS[prefix], name)
    return NETWORKS.find(name)


def _plain_model(path: Path, document: dict[str, Any] | None, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network that the document names; a file cannot ask for one that is larger than its own tensors allow."""
    made = document.get("model") if document else None
    if not made:
        raise InputError(
            str(path), "it does not say which network it holds",
            f"pass model= the plain network; in a shell --model package.module:factory --model-weights {path}",
        )  # fmt: skip
    if not isinstance(made, dict) or not isinstance(made.get("options"), dict):
        raise CorruptFile(
            str(path), "its model entry is not a name with options", "write the file again with ps.save"
        )
    create = _maker(made.get("name"))
    longest = max((size for t in tensors.values() if t.numel() for size in t.shape), default=0)
    for option, value in made["options"].items():
        if isinstance(value, int) and value > longest:
            raise CorruptFile(
                str(path), f"{option}={value} does not fit its tensors", "restore it from a copy"
            )
    numbers = 0
    try:
        # nothing is allocated yet; a few networks look at values while they are made, of which there are none
        with torch.device("meta"), contextlib.suppress(NotImplementedError):
            numbers = sum(one.numel() for one in create(**made["options"]).parameters())
        if numbers > _FREE + _PER_NUMBER * sum(tensor.numel() for tensor in tensors.values()):
            raise CorruptFile(str(path), f"it asks for {numbers} parameters", "restore it from a copy")
        return create(**made["options"])
    except TypeError as error:
        raise CorruptFile(
            str(path), f"its model options do not fit ({error})", "restore it from a copy"
        ) from error
