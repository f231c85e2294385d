"""The `.pint` file: a network in the fewest bytes. Its layout is specified in `docs/format.md`.

    magic · version · length of header · header (JSON, packed) · blocks · padding · SHA-256 of all before it

Blocks of symbols hold quantized, clustered and sparse weights, entropy-coded; blocks of planes hold
everything else, byte plane by byte plane, deflated. Loading gives the exact network: its outputs are
the same to the last bit. Nothing in the file is executed, and a small file cannot ask for much memory.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CorruptFile, InputError
from ...graph.inputs import as_args
from ...storage import network_file as files
from ...storage.atomic import write_bytes
from ...storage.record import to_json
from ..options import ExportInfo, Made, Options
from . import entropy
from .tensors import Entry, as_entries, four_dimensional, restore

MAGIC = b"\x89PINT\r\n\x1a"
FORMAT = 3
"""Version 1 has another header, a zlib stream; up to version 2 masks are stored beside the zeros that tell them."""
_LZMA: list[dict[str, int]] = [
    {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": 2**20,
        "lc": 3,
        "lp": 0,
        "pb": 0,
    }
]
_DIGEST = 32
_NUMBERS, _PASSES, _HEADER = (2**16, 256), (2**13, 1 / 16), (2**20, 64)
"""How many numbers a file may declare, passes over them its decoder may need, and bytes its header may have unpacked:
so many, and so many more for each byte of the file. Time and memory are in proportion to the file's length."""
_MOST_TENSORS = 2**16
_ABOUT = {
    "classes": (list, str),
    "mean": (list, float | int),
    "std": (list, float | int),
    "licence": (str, str),
}
_COPY = "restore it from a copy, or export the network again"


def make(model: nn.Module, path: Path, options: Options) -> Made:
    """`model` as one `.pint` file; see `pintsize.export`.

    Raises:
        InputError: an option that only a file with a graph can have.
    """
    for name in ("opset", "dynamic", "include_normalization", "include_softmax"):
        if getattr(options, name):
            raise InputError(
                f"{name} for {path}", "a .pint file holds weights, no graph", "export to .onnx for that"
            )
    given = {key: getattr(options, key) for key in _ABOUT}
    told = {
        key: value if isinstance(value, str) else [*value]
        for key, value in given.items()
        if value is not None
    }
    content, details = pack(model, told)
    info = ExportInfo(path, "pint", len(content), (), None, details)
    args = () if options.example is None else as_args(options.example, model)
    return Made({path: content}, info, model, args)


def pack(model: nn.Module, about: dict[str, Any] | None = None) -> tuple[bytes, dict[str, Any]]:
    """The content of a file, and how many of its bytes are what."""
    entries, aliases = as_entries(model)
    blocks: list[bytes] = []
    described: list[dict[str, Any]] = []
    for largest in sorted({entry.largest for entry in entries if entry.symbols is not None}):
        coded = [
            number
            for number, entry in enumerate(entries)
            if entry.symbols is not None and entry.largest == largest
        ]
        blocks.append(entropy.encode([four_dimensional(entries[number]) for number in coded], largest))
        described.append({"kind": "symbols", "largest": largest, "tensors": coded})
    alike: dict[tuple[int, bool], list[int]] = {}  # whole numbers apart, whose bytes look otherwise
    for number, entry in enumerate(entries):
        if entry.plain is not None:
            whole = not entry.plain_dtype.is_floating_point
            alike.setdefault((entry.plain.element_size(), whole), []).append(number)
    for (size, _), held in sorted(alike.items()):
        blocks.append(_planes([entries[number].plain for number in held], size))
        described.append({"kind": "planes", "size": size, "tensors": held})
    for block, about_block in zip(blocks, described, strict=True):
        about_block["bytes"] = len(block)
    document = {**to_json(model), "aliases": aliases}
    header = {"document": document, "about": about or {}, "blocks": described,
              "tensors": [entry.to_json() for entry in entries]}  # fmt: skip
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    packed = lzma.compress(text, lzma.FORMAT_RAW, filters=_LZMA)
    body = MAGIC + struct.pack("<II", FORMAT, len(packed)) + packed + b"".join(blocks)
    needs = (
        (sum(entry.numel for entry in entries), _NUMBERS),
        (_passes(entries), _PASSES),
        (len(text), _HEADER),
    )
    length = max(math.ceil((count - free) / per_byte) for count, (free, per_byte) in needs)
    body += bytes(max(0, length - len(body) - _DIGEST))
    sizes = {kind: sum(b["bytes"] for b in described if b["kind"] == kind) for kind in ("symbols", "planes")}
    return body + hashlib.sha256(body).digest(), {**sizes, "header": len(packed)}


def load(path: str | os.PathLike[str], *, model: nn.Module | None = None) -> nn.Module:
    """The network of a file, in eval mode, with its record; see `pintsize.load`."""
    return files.load(path, model=model)


def unpack(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    **options: Any,
) -> None:
    """Turn a `.pint` file into a `.safetensors` file, or into what `pintsize.export` writes.

    Args:
        source: the `.pint` file.
        target: its suffix is the format.
        model: the plain network, if it is not from `pintsize.models`.
        options: of `pintsize.export`, e.g. `example`; classes, mean, std and licence come from the file.

    Raises:
        CorruptFile: the file is damaged.
        InputError: it does not fit `model`, or the target has no place for an option.
    """
    source, target = Path(source), Path(target)
    network = files.load(source, model=model)
    if target.suffix != ".safetensors":
        from ..formats import export

        export(network, target, **{**about(source), **options})
    elif options:
        raise InputError(
            f"{next(iter(options))} for {target}", "a .safetensors file holds weights alone", "leave it out"
        )
    else:
        files.save(network, target)


def about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file says of its network: those of `classes`, `mean`, `std` and `licence` that it was given.

    Raises:
        CorruptFile: the file is damaged.
    """
    source = str(path)
    told = _header(_content(Path(path)), source)[0].get("about")
    if not isinstance(told, dict) or not all(
        key in _ABOUT
        and isinstance(value, _ABOUT[key][0])
        and all(isinstance(v, _ABOUT[key][1]) for v in value)
        for key, value in told.items()
    ):
        raise CorruptFile(source, "what it says of its network is not understood", _COPY)
    return told


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of a file, and the record in it.

    Raises:
        CorruptFile: the file is damaged, or asks for more than a file of its size may.
        InputError: there is no such file, or it has a newer format.
    """
    content, source = _content(path), str(path)
    header, at = _header(content, source)
    try:
        entries = _declared(header["tensors"], len(content), source)
        seen: dict[str, set[int]] = {"symbols": set(), "planes": set()}
        for block in header["blocks"]:
            members = _members(entries, block["tensors"], seen[block["kind"]])
            end = at + block["bytes"]
            if not at <= end <= len(content) - _DIGEST:
                raise CorruptFile(source, "a block is longer than the file", _COPY)
            if block["kind"] == "symbols":
                _read_symbols(content[at:end], members, block["largest"], source)
            else:
                _read_planes(content[at:end], members, block["size"], source)
            at = end
        tensors = restore(entries)
        document = header["document"]
        for alias, name in document["aliases"].items():
            tensors[alias] = tensors[name]
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        RuntimeError,
        OverflowError,
    ) as error:
        if isinstance(error, CorruptFile):
            raise
        raise CorruptFile(
            source, f"its header does not fit its content ({type(error).__name__}: {error})", _COPY
        ) from error
    return tensors, document


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(str(path), "there is no such file", "check the path")
    return path.read_bytes()


def _declared(tensors: list[Any], size: int, source: str) -> list[Entry]:
    """The entries of a file of `size` bytes, if it may have so many and so large ones."""
    if len(tensors) > _MOST_TENSORS:
        raise CorruptFile(source, f"it declares {len(tensors)} tensors", _COPY)
    entries = [Entry.from_json(fields) for fields in tensors]
    numbers = sum(entry.numel for entry in entries)
    if numbers > _allowed(_NUMBERS, size):
        raise CorruptFile(source, f"it declares {numbers} numbers in {size} bytes", _COPY)
    if _passes(entries) > _allowed(_PASSES, size):
        raise CorruptFile(source, f"its {size} bytes would take {_passes(entries)} passes to read", _COPY)
    return entries


def _allowed(limit: tuple[int, float], size: int) -> float:
    return limit[0] + limit[1] * size


def _passes(entries: list[Entry]) -> int:
    return sum(entropy.passes(entry.four) for entry in entries if entry.coded)


def _members(entries: list[Entry], numbers: list[int], seen: set[int]) -> list[Entry]:
    """The entries that a block holds; each may be in one block of a kind."""
    if (
        seen.intersection(numbers)
        or len(set(numbers)) != len(numbers)
        or any(number < 0 for number in numbers)
    ):
        raise ValueError("a tensor is in two blocks")
    seen.update(numbers)
    return [entries[number] for number in numbers]


def _header(content: bytes, source: str) -> tuple[dict[str, Any], int]:
    """The header, and where the blocks start; the checksum is right."""
    start = len(MAGIC) + 8
    if len(content) < start + _DIGEST or not content.startswith(MAGIC):
        raise CorruptFile(source, "it is not a whole .pint file", _COPY)
    if hashlib.sha256(memoryview(content)[:-_DIGEST]).digest() != content[-_DIGEST:]:
        raise CorruptFile(source, "its content does not match its checksum", _COPY)
    version, size = struct.unpack_from("<II", content, len(MAGIC))
    if not 1 <= version <= FORMAT:
        raise InputError(
            source,
            f"it has format {version}, this version reads 1 to {FORMAT}",
            "use a newer pintsize",
        )
    try:
        limit = int(_allowed(_HEADER, len(content)))
        unpacker = (
            zlib.decompressobj() if version == 1 else lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA)
        )
        text = unpacker.decompress(content[start : start + size], limit + 1)
        if len(text) > limit:
            raise CorruptFile(source, f"its header unpacks to more than {limit} bytes", _COPY)
        header = json.loads(text)
    except (zlib.error, lzma.LZMAError, ValueError, RecursionError) as error:
        raise CorruptFile(source, f"its header does not parse ({error})", _COPY) from error
    if not isinstance(header, dict):
        raise CorruptFile(source, "its header is not a dictionary", _COPY)
    return header, start + size


def _read_symbols(data: bytes, members: list[Entry], largest: int, source: str) -> None:
    if not isinstance(largest, int) or not 1 <= largest <= entropy.LARGEST:
        raise CorruptFile(source, f"{largest!r} is no size of an alphabet", _COPY)
    found = entropy.decode(data, [entry.four for entry in members], largest, source=source)
    for entry, symbols in zip(members, found, strict=True):
        entry.symbols = torch.from_numpy(symbols).reshape(entry.shape)


def _planes(tensors: list[Tensor | None], size: int) -> bytes:
    """All numbers of one size: first every lowest byte, then every second one, and so on; deflated."""
    flat = torch.cat([t.contiguous().reshape(-1).view(torch.uint8) for t in tensors if t is not None])
    return zlib.compress(flat.reshape(-1, size).T.contiguous().numpy().tobytes(), 9)


def _read_planes(data: bytes, members: list[Entry], size: int, source: str) -> None:
    if size not in (1, 2, 4, 8):
        raise CorruptFile(source, f"{size!r} is no size of a number", _COPY)
    counts = [entry.plain_numel for entry in members]
    total = sum(counts) * size
    try:
        flat = zlib.decompressobj().decompress(data, total + 1)
    except zlib.error as error:
        raise CorruptFile(source, f"a block does not unpack ({error})", _COPY) from error
    if len(flat) != total:
        raise CorruptFile(source, "a block has the wrong length", _COPY)
    numbers = (
        torch.frombuffer(bytearray(flat), dtype=torch.uint8).reshape(size, -1).T.contiguous()
        if total
        else None
    )
    at = 0
    for entry, count in zip(members, counts, strict=True):
        piece = torch.empty(0, dtype=torch.uint8) if numbers is None else numbers[at : at + count].reshape(-1)
        entry.plain = piece.clone().view(entry.plain_dtype)
        at += count


def _write(model: nn.Module, path: Path) -> None:
    write_bytes(path, pack(model)[0])


files.FORMATS.add(".pint", files.FileFormat(_write, read_tensors))
