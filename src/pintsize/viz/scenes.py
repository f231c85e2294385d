"""What networks see in pictures: boxes and masks drawn into them, one column a network and one for the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from torch import Tensor

from ..errors import InputError
from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 12
"""Classes up to which a legend tells colours."""
_VEIL = 0.6


def draw_boxes(
    images: Tensor,
    found: Mapping[str, Sequence[Mapping[str, Tensor]]],
    classes: Sequence[str] = (),
    *,
    confidence: float = 0.25,
) -> Figure:
    """Pictures with boxes: a row for each picture, a column for each entry of `found`.

    Args:
        images: [N, C, H, W] of any range, a few.
        found: a name, such as dense, compressed and truth → for each picture `boxes` [n, 4] (left, top, right, bottom, in
            pixels), `labels` [n] and, of a network, `scores` [n].
        classes: their names.
        confidence: score from which on a box is drawn.

    Raises:
        InputError: there are not as many entries as pictures.
    """
    figure, grid = _grid(images, found)
    counts = []
    for column, (name, targets) in enumerate(found.items()):
        kept = [_sure(target, confidence) for target in targets]
        counts.append(f"{sum(len(boxes) for boxes, _, _ in kept)} {name}")
        for row, (boxes, labels, scores) in enumerate(kept):
            axes = grid[row * len(found) + column]
            for box, label, score in zip(boxes, labels, scores, strict=True):
                _box(axes, box, _class_name(classes, label), score, _colour(label))
    return style.describe(figure, f"Boxes in {len(images)} pictures: {', '.join(counts)}.")


def draw_masks(
    images: Tensor,
    found: Mapping[str, Tensor],
    classes: Sequence[str] = (),
    *,
    ignore_index: int = 255,
    background: int | None = 0,
) -> Figure:
    """Pictures with the class of each pixel as a colour: a row for each picture, a column for each entry of `found`.

    Args:
        images: [N, C, H, W] of any range, a few.
        found: a name, such as dense, compressed and truth → the class of each pixel, whole numbers [N, H, W].
        classes: their names.
        ignore_index: of pixels that do not count; they stay as they are.
        background: a class that is not coloured, if there is one.

    Raises:
        InputError: masks are not of the pictures.
    """
    figure, grid = _grid(images, found)
    shown: set[int] = set()
    for column, (name, masks) in enumerate(found.items()):
        if masks.shape[1:] != images.shape[2:]:
            raise InputError(
                f"masks of {name!r} {list(masks.shape)}", f"the pictures are {list(images.shape)}",
                "pass one class for each pixel, [N, H, W]",
            )  # fmt: skip
        for row, mask in enumerate(masks.cpu().long()):
            labels = [label for label in mask.unique().tolist() if label not in (ignore_index, background)]
            shown.update(labels)
            colours = np.zeros((*mask.shape, 4))
            for label in labels:
                colours[(mask == label).numpy()] = (*mpl.colors.to_rgb(_colour(label)), _VEIL)
            grid[row * len(found) + column].imshow(colours, interpolation="nearest")
    if 0 < len(shown) <= _NAMED:
        patches = [
            mpl.patches.Patch(color=_colour(label), label=_class_name(classes, label))
            for label in sorted(shown)
        ]
        figure.legend(
            handles=patches,
            loc="outside lower center",
            ncols=6,
            frameon=False,
            fontsize=8,
            labelcolor=style.INK,
        )
    return style.describe(
        figure, f"Masks of {len(images)} pictures, by {', '.join(found)}; {len(shown)} classes are coloured."
    )


def draw_pictures(images: Tensor, *, columns: int = 4, titles: Sequence[str] = ()) -> Figure:
    """Pictures as they are, a few: what a network sees of its images before they are normalised.

    Args:
        images: [N, C, H, W] within 0–1, C 1 or 3.
        columns: how many stand side by side.
        titles: of the pictures; none by default.

    Raises:
        InputError: they are no such pictures.
    """
    if images.dim() != 4 or not len(images) or images.shape[1] not in (1, 3):
        raise InputError(
            f"pictures {list(images.shape)}", "they are not [N, 1 or 3, H, W]", "pass grey or RGB pictures"
        )
    H, W = images.shape[2:]
    across = min(columns, len(images))
    down = -(-len(images) // across)
    cell = style.WIDTH / max(across, 2)
    figure, grid = style.figure(down, across, width=cell * across, height=cell * H / W * down + 0.1)
    for at, axes in enumerate(grid):
        axes.set_axis_off()
        if at < len(images):
            shown = images[at].detach().float().cpu().clamp(0, 1).permute(1, 2, 0).squeeze(2).numpy()
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1)
            axes.set_title(titles[at] if titles else "")
    return style.describe(figure, f"{len(images)} images of {H}×{W} pixels, as the network sees them.")


def _grid(images: Tensor, found: Mapping[str, Any]) -> tuple[Figure, list[Axes]]:
    for name, entries in found.items():
        if len(entries) != len(images) or not len(images):
            raise InputError(
                f"{len(entries)} entries of {name!r}",
                f"there are {len(images)} pictures",
                "pass one for each picture",
            )
    if images.dim() != 4 or not found:
        raise InputError(
            f"images {list(images.shape)}", "they are not [N, C, H, W], or nothing is found", "pass both"
        )
    H, W = images.shape[2:]
    cell = style.WIDTH / max(len(found), 2)
    figure, grid = style.figure(
        len(images), len(found), width=cell * len(found), height=cell * H / W * len(images) + 0.35
    )
    names = list(found)
    for at, axes in enumerate(grid):
        axes.imshow(style.picture(images[at // len(names)]), cmap="gray", vmin=0, vmax=1)
        axes.set_xlim(-0.5, W - 0.5)
        axes.set_ylim(H - 0.5, -0.5)
        axes.set_axis_off()
        if at < len(names):
            axes.set_title(names[at], fontsize=9.5, color=style.INK, pad=3)
    return figure, grid


def _sure(
    target: Mapping[str, Tensor], confidence: float
) -> tuple[list[list[float]], list[int], list[float | None]]:
    boxes, labels = target["boxes"].detach().cpu(), target["labels"].detach().cpu()
    if "scores" not in target:
        return boxes.tolist(), labels.tolist(), [None] * len(boxes)
    scores = target["scores"].detach().cpu()
    kept = scores >= confidence
    return boxes[kept].tolist(), labels[kept].tolist(), scores[kept].tolist()


def _box(axes: Axes, box: list[float], name: str, score: float | None, colour: str) -> None:
    left, top, right, bottom = (value - 0.5 for value in box)  # a pixel's middle is drawn at its number
    axes.add_patch(
        mpl.patches.Rectangle(
            (left, top), right - left, bottom - top, fill=False, color=colour, linewidth=1.2
        )
    )
    told = name if score is None else f"{name} {100 * score:.0f} %"
    axes.text(
        left, top, told, fontsize=6, color="white", va="bottom" if top > 6 else "top", clip_on=True,
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def _colour(label: int) -> str:
    """Colours of the house first, then those of a longer map."""
    if label < len(style.COLORS):
        return style.COLORS[label]
    return mpl.colors.to_hex(mpl.colormaps["tab20b"](7 * (label - len(style.COLORS)) % 20))


def _class_name(classes: Sequence[str], label: int) -> str:
    return classes[label] if 0 <= label < len(classes) else str(label)
