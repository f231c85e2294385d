"""One look for all figures: Okabe–Ito colours, which colour-blind readers tell apart, and little else.

Figures are made without pyplot, so they hold no global state and work in any thread and back end.
The ink has one colour, so that `to_svg` can hand it to the page: the same figure serves light and dark.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..errors import InputError
from ..storage.atomic import atomic, write_text
from ..tables import shortened
from ..units import ACCURACY, Scale

INK = "#1f2328"
PAPER = "#ffffff"
BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
COLORS = (BLUE, ORANGE, GREEN, RED, PINK, SKY)
"""Okabe & Ito, "Color Universal Design" (2008), without black and yellow (too weak on white)."""
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
HEAT = "cividis"
"""Perceptually uniform and the same to colour-blind readers."""
DIVERGING = "PuOr"
WIDTH = 5.2
"""Inches: on a phone it is scaled to about two thirds, and its text can still be read."""
_SMALL = 8.5
_SHEET = (
    f"<style>svg {{ color: {INK} }} "
    "@media (prefers-color-scheme: dark) { svg { color: #e6eaef; --figure-blue: #3d9fe0 } }</style>"
)
"""Of a figure that is a file of its own; in a page, the page says it."""
_NUMBERS = count()


class ShownFigure(Figure):
    """A figure that a notebook shows without pyplot: as SVG, in the colours of the page."""

    def _repr_html_(self) -> str:
        width = self.get_size_inches()[0] * 1.25
        svg = to_svg(self, key=f"notebook-{next(_NUMBERS)}")  # ids of two figures of a page must not meet
        return f"<div style='max-width:{width:.3g}in'>{svg}</div>"


def figure(
    rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float = 3.2, **options: Any
) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes, row by row; sizes in inches."""
    made = ShownFigure(figsize=(width, height), facecolor=PAPER, layout="constrained")
    grid = made.subplots(rows, columns, squeeze=False, **options)
    return made, list(grid.flat)


def dress(
    axes: Axes, *, title: str = "", x: str = "", y: str = "", grid: str = "y", panel: bool = False
) -> None:
    """Title and labels (with units) in the common look; `grid`: 'x', 'y', 'both' or ''; `panel`: a light title."""
    if title:
        weight, size = ("normal", 9.5) if panel else ("bold", 11)
        axes.set_title(title, fontsize=size, color=INK, loc="left", fontweight=weight)
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.set_facecolor("none")
    axes.tick_params(labelsize=_SMALL, colors=INK, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(INK)
        spine.set_linewidth(0.8)
    if grid:
        axes.grid(axis=grid, color=INK, alpha=0.15, linewidth=0.6)  # type: ignore[arg-type]
        axes.set_axisbelow(True)


def head(figure: Figure, title: str) -> None:
    """The title of a figure of several panels."""
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left", fontweight="bold")


def legend(axes: Axes, **options: Any) -> None:
    """A legend without a frame."""
    axes.legend(**{"fontsize": _SMALL, "frameon": False, "labelcolor": INK, **options})


def note(axes: Axes, text: str, at: tuple[float, float], **options: Any) -> None:
    """Small text beside a data point."""
    axes.annotate(
        text,
        at,
        **{
            "fontsize": _SMALL,
            "color": INK,
            "xytext": (4, 0),
            "textcoords": "offset points",
            "va": "center",
            **options,
        },
    )


def describe(figure: Figure, text: str) -> Figure:
    """Give `figure` the sentence that a reader who cannot see it is told."""
    figure.set_label(text)
    return figure


def description(figure: Figure) -> str:
    """What `describe` noted."""
    return str(figure.get_label())


def short_names(names: Sequence[str], limit: int = 26) -> list[str]:
    """Names, of layers say, whose lines are cut in the middle to `limit` characters."""
    return ["\n".join(shortened(line, limit) for line in name.split("\n")) for name in names]


def to_png(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write `figure` to `path` as PNG on white, atomically, with its description as metadata."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Description": description(figure)})


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write `figure` to `path`, atomically, in the format of its suffix.

    Args:
        figure: any figure.
        path: `.png` and `.pdf` are on white; `.svg` is transparent and follows the reader's light or dark setting.
        dpi: of a `.png`.

    Raises:
        InputError: another suffix.
        OperationError: the file cannot be written.
    """
    suffix = Path(path).suffix
    if suffix == ".png":
        to_png(figure, path, dpi=dpi)
    elif suffix == ".svg":
        width, height = figure.get_size_inches()
        size = f'xmlns="http://www.w3.org/2000/svg" width="{width:.4g}in" height="{height:.4g}in"'
        start, end = to_svg(figure, key=Path(path).stem).split(">", 1)
        write_text(path, f"{start.replace('<svg', f'<svg {size}', 1)}>{_SHEET}{end}")
    elif suffix == ".pdf":
        with atomic(path) as temporary:
            figure.savefig(
                temporary, format="pdf", metadata={"Title": description(figure), "CreationDate": None}
            )
    else:
        raise InputError(str(path), f"the suffix {suffix!r} is none of a picture", "use .png, .svg or .pdf")


def to_svg(figure: Figure, *, key: str) -> str:
    """`figure` as an `<svg>` element to put into a page, transparent.

    Its ink is the page's text colour, its blue the page's `--figure-blue`.

    Args:
        figure: any figure; its description becomes the accessible name.
        key: unique in the page, so that no two figures share ids.
    """
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor").replace(BLUE, f"var(--figure-blue, {BLUE})")
    text = re.sub(
        r"font: ([^;\"]*?)(\d[\d.]*)px [^;\"]*", r"font: \1\2px system-ui, 'DejaVu Sans', sans-serif", text
    )
    text = _unique_ids(text, key)
    name = escape(description(figure), quote=True).replace("\\", "\\\\")
    return re.sub(
        r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>",
        rf'<svg \1 role="img" aria-label="{name}" xmlns:xlink="http://www.w3.org/1999/xlink">',
        text,
        count=1,
    )


def _unique_ids(svg: str, key: str) -> str:
    """Drop ids that nothing in the figure points to, and make the others unique to it; links out of it stay."""
    own = set(re.findall(r' id="([^"]+)"', svg)) & set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg))
    prefix = f"f{hashlib.sha256(key.encode()).hexdigest()[:6]}-"
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in own else "", svg)
    return re.sub(r'(url\(|href=")#([^)"]+)', lambda m: f"{m[1]}#{prefix if m[2] in own else ''}{m[2]}", svg)


def names_axis(axes: Axes, names: Iterable[str]) -> None:
    """One row a name, the first on top."""
    labels = short_names(list(names))
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def whole_numbers(axes: Axes) -> None:
    """Ticks across at whole numbers only: there is no epoch 2.5."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def shade(share: float) -> str:
    """From pale (0) to full blue (1), for moments in order."""
    pale, full = (197, 225, 242), tuple(int(BLUE[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(pale, full, strict=True))


def depth_colors(layers: int) -> list[tuple[float, ...]]:
    """One colour a layer, from the input on; the map's palest end is left out, as it is lost on white."""
    return [mpl.colormaps[HEAT](0.86 * number / max(layers - 1, 1)) for number in range(layers)]


def depth_bar(axes: Axes, layers: int) -> None:
    """A colour bar for `depth_colors`, for more layers than a legend could name."""
    colors = mpl.colors.ListedColormap(depth_colors(layers))
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0.5, layers + 0.5), colors)
    bar = axes.figure.colorbar(scale, ax=axes)
    bar.set_label("layer, from the input on", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)


def picture(image: Any) -> Any:
    """A tensor [C, H, W] of any range as grey [H, W] or colour [H, W, 3] within 0–1."""
    image = image.detach().float().cpu()
    image = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-12)
    return image.permute(1, 2, 0).numpy() if len(image) == 3 else image.mean(dim=0).numpy()


def shared_scale(rows: Iterable[Mapping[str, Any]]) -> Scale:
    """What the figures of all of them are.

    Raises:
        InputError: they are judged by several metrics, which one axis cannot show.
    """
    found = list(dict.fromkeys(Scale.of(row) for row in rows)) or [ACCURACY]
    if len(found) > 1:
        raise InputError(
            "what is compared",
            f"it is judged by {' and by '.join(scale.label for scale in found)}",
            "compare networks that are judged by one metric",
        )
    return found[0]
