"""`images`: pictures without labels, made as a network expects them."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..errors import DataNotFound, InputError, InputTypeError, unknown
from ..recipe.sides import sides
from ..storage.digests import digest
from ..storage.preprocessing import Preprocessing
from . import cache, chance, folder, neighbours, pictures
from .annotated import sizes_of
from .options import MEMORY_LIMIT, changed, check_options, expected, size_of
from .placement import LETTERBOX, STRETCH, Placement
from .places import Decoded, Labelled
from .split import Data, MemoryStore, Store
from .stream import PictureStore
from .transform import Transform
from .unlabelled import Unlabelled, UnlabelledSplit

CROP = "crop"
CHANNELS = {"rgb": 3, "bgr": 3, "grey": 1}
_BORDER = 1 / 16
"""Of the shorter side: how far augmentation moves an image."""
_VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v"}

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclasses.dataclass(frozen=True)
class Look(Placement):
    """How a picture becomes what a network sees, before normalisation."""

    channels: str = "rgb"
    crop: float = 1.0
    """Of `resize="crop"`: the share of the scaled picture's shorter side that is kept."""
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for what, given, known in (
            ("resize", self.how, (LETTERBOX, STRETCH, CROP)), ("channels", self.channels, CHANNELS),
            ("interpolation", self.interpolation, pictures.resamplings()),
        ):  # fmt: skip
            if given not in known:
                raise unknown(what, given, known)
        if isinstance(self.crop, bool) or not isinstance(self.crop, int | float) or not 0 < self.crop <= 1:
            raise InputError(
                f"crop={self.crop!r}", "it is no share of a side", "pass 0.875, or 1 to lose nothing more"
            )

    def picture(self, file: str, word: int | None = None) -> pictures.Rgb:
        """A picture file, uint8 [H, W, C]."""
        del word  # crops and flips are made later, on whole batches
        image = pictures.rgb(file)
        if self.how == CROP:
            seen = pictures.fit(image, self.size, margin=1 / self.crop, interpolation=self.interpolation)
        else:
            seen = self.placed(image, pictures.resamplings()[self.interpolation])
        if self.channels == "grey":
            return np.asarray(Image.fromarray(seen).convert("L"))[..., None]
        return seen[..., ::-1] if self.channels == "bgr" else seen


def images(
    source: Source,
    *,
    size: int | str | tuple[int, int] | None = None,
    resize: str | None = None,
    crop: float | None = None,
    interpolation: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: float = 255,
    channels: str = "rgb",
    like: nn.Module | Preprocessing | None = None,
    frames: bool | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    flip: bool = True,
    cutout: int = 0,
) -> Data:
    """Pictures without labels, for everything that needs none: calibration, imitation, verification.

    A network gets `(pixels / scale - mean) / std`. A fifth of the pictures is for the test, the same for every seed.

    Args:
        source: a folder, with all folders in it, of pictures or frames of videos; or a list of picture files.
        size: height and width that the network sees, as (192, 320), `192x320` or 224; by default what `like` expects, else
            that of the pictures where all have the same one.
        resize: how pictures come to it: `letterbox` (whole, with a border), `stretch`, or `crop` (the centre). By default
            `crop` where `like` tells one, else `letterbox`.
        crop: of `crop`: the share of the scaled picture's shorter side that is kept, as .875; by default that of `like`.
        interpolation: of scaling: `nearest`, `bilinear`, `bicubic`, `lanczos`; by default that of `like`, else `bilinear`.
        mean: per channel, of the pixels after division by `scale`; by default what `like` expects, else 0.
        std: likewise; by default what `like` expects, else 1.
        scale: what pixels of 0 to 255 are divided by: 255 for [0, 1], 1 for bytes as they are.
        channels: `rgb`, `bgr` as OpenCV reads them, or `grey`; `mean` and `std` are in this order.
        like: a network whose weights tell size, mean, std and crop: see `pintsize.models.preprocessing_of`.
        frames: whether pictures that follow each other are alike, as those of a video: then they are cut into parts in
            blocks, with a gap between them. By default a few are compared.
        val_fraction: share of the training images that becomes the validation split.
        seed: determines the validation split.
        limit: at most so many images in each split.
        flip: whether augmentation mirrors images.
        cutout: side in pixels of the square that augmentation erases in every image; 0 for none.

    Returns:
        Splits whose batches are inputs alone, float32 [B, C, H, W]; their task is imitation.

    Raises:
        DataNotFound: there is no such folder or file.
        InputError: an impossible option; no pictures, or but one; pictures of several sizes and no size to bring them to.
        CorruptFile: a file is damaged; it is named.
    """
    check_options(val_fraction, seed, limit)
    chance.check_whole("cutout", cutout, least=0)
    known = expected(like)
    root, files = _listed(source)
    look = _look(files, known, sides(size), resize, crop, interpolation, channels)
    size_of(look.size)
    made = _transform(look, known, mean=mean, std=std, scale=scale, flip=flip, cutout=cutout)
    fingerprint = cache.of_files([Path(file) for file in files])
    of_all = digest([fingerprint, dataclasses.asdict(look)])
    store = _stored(root, files, look, fingerprint)
    where = neighbours.cut(
        len(files), val_fraction, seed, frames=neighbours.are_frames(files) if frames is None else frames
    )
    parts = {
        part: UnlabelledSplit(store, Unlabelled(of_all, positions), made, channels=channels)
        for part, positions in where.items()
    }
    if limit is not None:
        parts = {part: split.subset(min(limit, len(split)), seed) for part, split in parts.items()}
    shape = parts["train"].image_shape
    name = f"images:{root}"
    return Data(
        name, parts["train"], parts["val"], parts["test"], (), shape, made.mean, made.std, "imitation"
    )


def _listed(source: Source) -> tuple[str, list[str]]:
    """What the pictures are called by, and their files in order: of a folder by name, numbers by their value."""
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):
            raise InputError("images:", "it names no folder", "write images:/path/to/folder")
        root = Path(source).expanduser().resolve()
        if root.is_file():
            remedy = (
                f"extract its frames: ffmpeg -i {root.name} frames/%06d.png" if root.suffix.lower() in _VIDEOS
                else "pass the folder that it is in, or a list of files"
            )  # fmt: skip
            raise InputError(str(root), "it is a file, not a folder of pictures", remedy)
        if not root.is_dir():
            raise DataNotFound(f"images {root}", "there is no such folder", "check the path")
        files = sorted(_pictures(root), key=_natural)
        if not files:
            raise InputError(
                f"images {root}", "there are no pictures in it", "name a folder of JPEG, PNG or the like"
            )
        return str(root), files
    if not isinstance(source, Sequence) or not all(isinstance(one, str | os.PathLike) for one in source):
        raise InputTypeError(
            f"images of type {type(source).__name__}", "it is no folder and no list of files",
            "pass a path or a list of paths; loaders and tensors are for pintsize.data.from_loaders",
        )  # fmt: skip
    files = [str(Path(one).expanduser().resolve()) for one in source]
    missing = next((file for file in files if not os.path.isfile(file)), None)
    if missing is not None:
        raise DataNotFound(missing, "there is no such picture", "check the list")
    if not files:
        raise InputError("images: the list is empty", "there is nothing to look at", "pass a few files")
    return f"{os.path.commonpath([os.path.dirname(file) for file in files])} ({len(files)} files)", files


def _pictures(root: Path) -> Iterator[str]:
    known = set(pictures.suffixes()) - _VIDEOS
    for below, folders, names in os.walk(root, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in known:
                yield os.path.join(below, name)


def _unreadable(error: OSError) -> None:
    raise InputError(
        str(error.filename), f"it cannot be read ({error.strerror})", "make it readable"
    ) from error


def _natural(file: str) -> list[Any]:
    """Frame 2 stands before frame 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", file)]


def _look(
    files: Sequence[str], known: Preprocessing | None, size: tuple[int, int] | None, resize: str | None,
    crop: float | None, interpolation: str | None, channels: str,
) -> Look:  # fmt: skip
    if size is None and known is None:
        every = set(sizes_of(files))
        if len(every) > 1:
            H, W = min(every)
            raise InputError(
                f"images of {len(every)} sizes, such as {H}×{W}", "it is not clear which one the network takes",
                "pass size=(height, width), on the command line --image-size",
            )  # fmt: skip
        size = every.pop()
    elif size is None and known is not None:
        size = known.size
    cut = crop if crop is not None else known.crop if known is not None else 1.0
    how = resize or (LETTERBOX if known is None and crop is None else CROP)
    if crop is not None and how != CROP:
        raise InputError(
            f"crop={crop} with resize={how!r}", "nothing is cropped then", "leave one of them out"
        )
    assert size is not None
    return Look(
        size, how, channels=channels, crop=cut if how == CROP else 1.0,
        interpolation=interpolation or ("bilinear" if known is None else known.interpolation),
    )  # fmt: skip


def _transform(look: Look, known: Preprocessing | None, *, scale: float, **changes: Any) -> Transform:
    """Of pixels in [0, 1], as all transforms are: mean and std of other scales are brought to that."""
    if (
        isinstance(scale, bool)
        or not isinstance(scale, int | float)
        or not (scale > 0 and math.isfinite(scale))
    ):
        raise InputError(
            f"scale={scale!r}", "it is no positive number", "pass 255 for [0, 1], or 1 for bytes as they are"
        )
    count = CHANNELS[look.channels]
    plain = Transform((0.0,) * count, (1.0,) * count)
    if known is not None and scale != 255 and None in (changes["mean"], changes["std"]):
        raise InputError(
            f"scale={scale} with like=",
            "mean and std of its weights are of pixels in [0, 1]",
            "leave scale out",
        )
    order = None if known is None else known.for_channels(count)
    if order is not None and look.channels == "bgr":
        order = dataclasses.replace(order, mean=order.mean[::-1], std=order.std[::-1])
    asked = changed(plain, {**changes, "like": order})
    factor = scale / 255
    centre, spread = (tuple(value * factor for value in values) for values in (asked.mean, asked.std))
    pad = max(1, round(min(look.size) * _BORDER))
    if asked.cutout >= min(look.size):
        raise InputError(
            f"cutout={asked.cutout}",
            f"it would erase images of {look.size}",
            "half of their side is customary",
        )
    return dataclasses.replace(asked, mean=centre, std=spread, pad=pad)


def _stored(root: str, files: Sequence[str], look: Look, fingerprint: str) -> Store:
    """In memory, and decoded for the next start, as long as they fit; else decoded as they are asked for."""
    shape = (*look.size, CHANNELS[look.channels])
    if math.prod(shape) * len(files) > MEMORY_LIMIT:
        return PictureStore(files, shape, look.picture)

    def decoded() -> Decoded:
        pixels = folder.decode_files(files, shape, look.picture)
        return Decoded({"all": Labelled(pixels, torch.zeros(0, dtype=torch.int64))}, ())

    found = cache.remembered("images", f"{root} {dataclasses.asdict(look)}", fingerprint, decoded)
    return MemoryStore(found.parts["all"].images)
