"""`make demo` and the recipe that says what it does."""

from pathlib import Path

import pytest

from pintsize import demo
from pintsize.pipeline import read_recipe
from pintsize.recipe import Recipe


class Called(Exception):
    pass


def test_the_recipe_of_the_demo_is_what_the_demo_does(monkeypatch):
    def compress(model, data, *, out, **options):
        assert out == "runs/demo"
        assert read_recipe(model, data, None, options) == Recipe.load(
            Path(__file__).parents[1] / "recipes" / "demo.yaml"
        )
        raise Called

    monkeypatch.setattr(demo, "compress", compress)
    with pytest.raises(Called):
        demo.main()
