import matplotlib as mpl
import pytest
import torch
from PIL import Image

from pintsize import viz
from pintsize.errors import InputError

IMAGES = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))


def boxes(*scores):
    given = torch.tensor([[4.0, 6, 12, 20], [16, 2, 30, 12]])[: len(scores)]
    labels = torch.arange(len(scores))
    return {"boxes": given, "labels": labels, "scores": torch.tensor(scores)}


def drawn(axes):
    """Rectangles (left, top, width, height) and texts."""
    found = [patch for patch in axes.patches if isinstance(patch, mpl.patches.Rectangle)]
    return [(*one.get_xy(), one.get_width(), one.get_height()) for one in found], [
        text.get_text() for text in axes.texts
    ]


def test_boxes_of_two_networks_and_the_truth(tmp_path):
    truth = [{key: one[key] for key in ("boxes", "labels")} for one in (boxes(1.0, 1.0), boxes(1.0))]
    figure = viz.draw_boxes(
        IMAGES,
        {"dense": [boxes(0.9, 0.3), boxes(0.8)], "compressed": [boxes(0.9, 0.2), boxes()], "truth": truth},
        ("cat", "dog"),
    )
    first, second, third = (drawn(axes) for axes in figure.axes[:3])
    assert first == ([(3.5, 5.5, 8, 14), (15.5, 1.5, 14, 10)], ["cat 90 %", "dog 30 %"])
    assert second == ([(3.5, 5.5, 8, 14)], ["cat 90 %"])  # the other one is not sure enough
    assert third[1] == ["cat", "dog"]
    assert [axes.get_title() for axes in figure.axes[:3]] == ["dense", "compressed", "truth"]
    assert drawn(figure.axes[4]) == ([], [])
    assert "3 dense, 1 compressed, 3 truth" in viz.description(figure)
    viz.save(figure, tmp_path / "boxes.png", dpi=60)
    assert len(Image.open(tmp_path / "boxes.png").convert("RGB").getcolors(1 << 20)) > 50
    assert "<svg" in viz.to_svg(figure, key="boxes")


def test_masks_colour_what_is_not_background(tmp_path):
    masks = torch.zeros(2, 24, 32, dtype=torch.int64)
    masks[0, :10, :8], masks[0, 20:], masks[1, 4:8] = 1, 255, 3
    figure = viz.draw_masks(
        IMAGES, {"dense": masks, "truth": masks.roll(1, 1)}, ("background", "cat", "dog", "cow")
    )
    veil = figure.axes[0].images[1].get_array()
    assert (veil[..., 3] > 0).sum() == 80
    assert (figure.axes[2].images[1].get_array()[..., 3] > 0).sum() == 4 * 32
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["cat", "cow"]
    viz.save(figure, tmp_path / "masks.png", dpi=60)
    assert (tmp_path / "masks.png").stat().st_size > 2000


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="1 entries of 'dense': there are 2 pictures"):
        viz.draw_boxes(IMAGES, {"dense": [boxes()]})
    with pytest.raises(InputError, match=r"masks of 'dense' \[2, 12, 16\]"):
        viz.draw_masks(IMAGES, {"dense": torch.zeros(2, 12, 16)})
    with pytest.raises(InputError, match="nothing is found"):
        viz.draw_boxes(IMAGES, {})
