"""The common look, and figures as files and markup."""

import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from pintsize import viz
from pintsize.errors import InputError, OperationError
from pintsize.viz import stages, style


def bars(name="a<b"):
    return stages.stage_bars([{"name": name, "params": 5}, {"name": "c", "params": 2}])


def test_svg_is_an_image_with_a_name_in_the_colour_of_the_page():
    text = style.to_svg(bars(), key="x")
    root = ET.fromstring(text)
    assert root.get("role") == "img"
    assert "a<b 5" in root.get("aria-label")
    assert root.get("width") is None  # it scales with the page
    assert "currentColor" in text
    assert style.INK not in text
    assert "<metadata" not in text


def test_ids_of_two_figures_do_not_meet():
    ids = [
        {e.get("id") for e in ET.fromstring(style.to_svg(bars(), key=key)).iter()} - {None} for key in "xy"
    ]
    assert not ids[0] & ids[1]


def test_svg_is_the_same_each_time():
    assert style.to_svg(bars(), key="x") == style.to_svg(bars(), key="x")


def test_png_on_white_says_what_it_shows(tmp_path):
    figure = bars()
    style.to_png(figure, tmp_path / "f" / "a.png", dpi=50)
    with Image.open(tmp_path / "f" / "a.png") as image:
        assert image.text["Description"] == style.description(figure)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_svg_file_follows_light_and_dark(tmp_path):
    style.save(bars(), tmp_path / "a.svg")
    root = ET.parse(tmp_path / "a.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("width").endswith("in")
    assert "prefers-color-scheme: dark" in (tmp_path / "a.svg").read_text()


def test_saved_by_suffix(tmp_path):
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        style.save(bars(), tmp_path / f"a{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes().startswith(start)
    with pytest.raises(InputError, match=r"\.gif"):
        style.save(bars(), tmp_path / "a.gif")


def test_png_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OperationError):
        style.to_png(bars(), tmp_path / "file" / "a.png")


def test_long_names_are_cut_in_the_middle():
    assert style.short_names(["short", "features.0.block.1.conv.weight_of_it"], 15) == [
        "short",
        "feature…t_of_it",
    ]


def test_pyplot_is_not_used():
    code = (
        "from pintsize.viz import stages; stages.stage_bars([{'name': 'a', 'params': 1}]); import sys; "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", viz.__all__)
def test_every_public_figure_is_found_under_its_name(name):
    assert callable(getattr(viz, name))


def test_what_is_judged_by_several_metrics_has_no_scale_in_common():
    rows = [{"accuracy": 1.0}, {"accuracy": 2.0, "metric_name": "PSNR", "metric_unit": "dB"}]
    assert style.shared_scale(rows[1:]).label == "PSNR (dB)"
    with pytest.raises(InputError, match=r"accuracy \(%\) and by PSNR \(dB\)"):
        style.shared_scale(rows)
