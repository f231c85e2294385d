"""`make demo` and the recipe that says what it does."""

from pathlib import Path

import pytest

from pintsize.recipe.recipe import Recipe
from pintsize.run import demo
from pintsize.run.compression import read_recipe


class Called(Exception):
    pass


def test_the_recipe_of_the_demo_is_what_the_demo_does(monkeypatch):
    def compress(model, data, *, out, **options):
        assert out == "runs/demo"
        assert read_recipe(model, data, None, options) == Recipe.load(
            Path(__file__).parents[2] / "recipes" / "demo.yaml"
        )
        raise Called

    monkeypatch.setattr(demo, "compress", compress)
    with pytest.raises(Called):
        demo.main()
