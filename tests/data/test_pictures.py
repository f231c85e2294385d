import numpy as np
import pytest
from PIL import Image

from pintsize.data import pictures
from pintsize.errors import CorruptFile, InputError


def test_fit_leaves_the_right_size_alone(gradient):
    assert np.array_equal(pictures.fit(gradient, (40, 60)), np.asarray(gradient))
    assert np.array_equal(pictures.fit(gradient, (40, 60), margin=2.0), np.asarray(gradient))


def test_fit_cuts_the_centre(gradient):
    fitted = pictures.fit(gradient, (40, 40))  # as high as the picture: nothing is scaled
    assert np.array_equal(fitted, np.asarray(gradient)[:, 10:50])


def test_fit_covers_then_cuts(gradient):
    # Halved to 20×30; columns 5 to 24 of that are 10 to 49 of the picture.
    fitted = pictures.fit(gradient, (20, 20)).astype(int)
    assert fitted.shape == (20, 20, 3)
    assert fitted[0, :, 1].min() == pytest.approx(10, abs=1)
    assert fitted[0, :, 1].max() == pytest.approx(49, abs=1)
    assert (fitted[:, 0, 0].min(), fitted[:, 0, 0].max()) == (
        pytest.approx(0, abs=1),
        pytest.approx(39, abs=1),
    )


def test_fit_with_a_margin_sees_less(gradient):
    rows = pictures.fit(gradient, (20, 20), margin=2.0)[:, 0, 0].astype(int)  # the middle half of 40 rows
    assert (rows.min(), rows.max()) == (pytest.approx(10, abs=1), pytest.approx(29, abs=1))


@pytest.mark.parametrize("size", [(224, 224), (50, 10), (10, 50), (41, 59)])
def test_fit_gives_any_size(gradient, size):
    assert pictures.fit(gradient, size).shape == (*size, 3)


def test_a_crop_is_determined_by_its_word(gradient):
    crops = [pictures.random_resized_crop(gradient, (16, 16), word) for word in (1, 1, 2)]
    assert np.array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[0], crops[2])


def test_crops_have_the_areas_and_aspects_asked_for(gradient):
    areas, aspects = [], []
    for word in range(300):
        crop = pictures.random_resized_crop(gradient, (64, 64), word).astype(float)
        rows, columns = (crop[..., channel].max() - crop[..., channel].min() + 1 for channel in (0, 1))
        areas.append(rows * columns / 2400)
        aspects.append(columns / rows)
    assert 0.05 < min(areas) < 0.15
    assert 0.75 < max(areas) <= 1.0
    assert min(aspects) > 0.6
    assert max(aspects) < 1.7


def test_a_crop_that_never_fits_is_the_centre():
    thin = Image.new("RGB", (400, 2), (9, 9, 9))
    assert np.array_equal(pictures.random_resized_crop(thin, (8, 8), 0), np.full((8, 8, 3), 9))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_eight_bit_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    picture = pictures.rgb(path)
    assert (picture.mode, picture.size) == ("RGB", (5, 4))
    assert np.asarray(picture).min() == 255


def test_a_transparent_palette_is_read_without_a_warning(tmp_path):
    picture = Image.new("P", (4, 4))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "a.png", transparency=b"\x00\xff")
    assert np.asarray(pictures.rgb(tmp_path / "a.png"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", "png"), ("F", "tif")])
def test_more_than_eight_bits_are_refused(tmp_path, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(InputError, match="not 8 bits a channel"):
        pictures.rgb(path)


def test_no_picture_is_named(tmp_path, gradient):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(CorruptFile, match=r"text\.png: .*it is not a picture"):
        pictures.rgb(tmp_path / "text.png")
    with pytest.raises(CorruptFile, match=r"text\.png"):
        pictures.size_of(tmp_path / "text.png")
    for suffix in ("png", "jpg"):
        path = tmp_path / f"half.{suffix}"
        gradient.resize((200, 200)).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(CorruptFile, match=f"half.{suffix}: it cannot be read as a picture"):
            pictures.rgb(path)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(CorruptFile, match=r"empty.jpg"):
        pictures.rgb(tmp_path / "empty.jpg")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, gradient):
    gradient.save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(CorruptFile, match=r"a.png"):
        pictures.rgb(tmp_path / "a.png")
