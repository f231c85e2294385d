"""A run folder that the first layout of the code wrote, without its weights: what reads folders reads it."""

import json
import shutil
from pathlib import Path

import pytest

from pintsize import report
from pintsize.recipe.recipe import Recipe
from pintsize.report.run import read
from pintsize.run.stages.stages import forms_of, stages_of
from pintsize.storage.markers import read_marker
from pintsize.storage.record import steps_from_json

FORMER = Path(__file__).parent / "former"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FORMER, tmp_path / "run"))


def test_its_recipe_asks_for_the_same_stages_and_forms():
    recipe = Recipe.load(FORMER / "recipe.yaml")
    assert recipe.prune.ratio == 0.5
    assert recipe.cluster is recipe.fixed_point is None
    stages = ["train", "prune", "recover", "quantize", "export", "verify", "measure"]
    assert [one.name for one in stages_of(recipe)] == stages
    labels = [row["name"] for row in json.loads((FORMER / "metrics.json").read_text())["stages"]]
    assert [form.label for form in forms_of(recipe)] == labels


def test_its_stages_leave_the_files_that_a_run_of_today_leaves():
    recipe = Recipe.load(FORMER / "recipe.yaml")
    for one in stages_of(recipe):
        marker = read_marker(FORMER / "stages" / f"{one.name}.json")
        assert marker is not None
        if (file := one.file(recipe)) is not None:
            assert list(marker["outputs"]) == [file]


def test_its_record_has_kinds_of_steps_that_are_known():
    document = json.loads((FORMER / "record.json").read_text())
    assert [step.kind for step in steps_from_json(document, source="record")] == ["prune", "fold", "quantize"]


def test_its_report_is_written_and_it_is_compared(folder, tmp_path):
    assert read(folder).metrics.stages[-1].name == "pruned int8"
    assert "pruned int8" in report.write(folder).read_text()
    shutil.copytree(folder, tmp_path / "other")
    assert report.compare([folder, tmp_path / "other"], tmp_path / "c.html").is_file()
