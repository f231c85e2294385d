"""Pictures of any size at one size, with what is known of places in them: whole, with a border, or stretched."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import CorruptFile, InputError
from . import pictures
from .targets import IGNORED

LETTERBOX, STRETCH = "letterbox", "stretch"
_GREY = 114
"""Of the border, as detectors are used to (YOLOv5 and its successors)."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """How pictures come to their size: pickled, it goes to processes that decode."""

    size: pictures.Size
    """Height and width."""
    how: str = LETTERBOX
    """`letterbox`: as large as fits, with a border; `stretch`: to all of it."""

    def __post_init__(self) -> None:
        if self.how not in (LETTERBOX, STRETCH):
            raise InputError(f"resize={self.how!r}", "there is no such", f"choose {LETTERBOX} or {STRETCH}")

    def window(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Where a picture of this size comes to lie: top, left, height, width."""
        H, W = self.size
        if self.how == STRETCH:
            return 0, 0, H, W
        scale = min(H / height, W / width)
        inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
        return (H - inner_height) // 2, (W - inner_width) // 2, inner_height, inner_width

    def boxes(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """Boxes [n, 4] of a picture of this size, where they come to lie."""
        top, left, inner_height, inner_width = self.window(height, width)
        scale = torch.tensor([inner_width / width, inner_height / height]).repeat(2)
        return boxes * scale + torch.tensor([left, top, left, top])

    def picture(self, file: str, word: int | None = None) -> pictures.Rgb:
        """A picture file, uint8 [H, W, 3]; crops and flips are made later, with boxes and masks."""
        del word
        return self.placed(pictures.rgb(file), Image.Resampling.BILINEAR)

    def mask(self, file: str, word: int | None = None) -> NDArray[np.uint8]:
        """A mask file, uint8 [H, W, 1]; what is no picture does not count."""
        del word
        return self.placed(mask_image(file), Image.Resampling.NEAREST, IGNORED)[..., None]

    def placed(
        self, image: Image.Image, resampling: Image.Resampling, border: Any = (_GREY,) * 3
    ) -> NDArray[np.uint8]:
        """A picture scaled to its window, with a border around it."""
        top, left, height, width = self.window(image.height, image.width)
        if (image.height, image.width) != (height, width):
            image = image.resize((width, height), resampling)
        if (height, width) != self.size:
            canvas = Image.new(image.mode, (self.size[1], self.size[0]), border)
            canvas.paste(image, (left, top))
            image = canvas
        return np.asarray(image)


def mask_image(file: str | Path) -> Image.Image:
    """A mask, of mode L: the class of each pixel.

    Raises:
        CorruptFile: it is damaged or no picture.
        InputError: it has colours, or numbers above 255.
    """
    try:
        with Image.open(file) as image:
            image.load()
            if image.mode == "1":  # Pillow would say 255 for what is not 0
                return Image.fromarray(np.asarray(image).astype(np.uint8))
            if image.mode in ("L", "P"):  # of a palette the number counts, not its colour
                return Image.fromarray(np.asarray(image))
            if image.mode.startswith("I"):
                values = np.asarray(image)
                if values.min() >= 0 and values.max() <= 255:
                    return Image.fromarray(values.astype(np.uint8))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptFile(
            str(file), f"it cannot be read as a picture ({error})", "remove or replace it"
        ) from error
    raise InputError(
        str(file), f"as a mask it must have one number from 0 to 255 for each pixel, it has Pillow's mode {image.mode}",
        "write the class of each pixel into a PNG of grey values or with a palette",
    )  # fmt: skip
