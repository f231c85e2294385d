"""Which trials a sweep file stands for."""

from pathlib import Path

import pytest

from pintsize.errors import InputError
from pintsize.search.sweep_file import read_sweep, trials

BASE = """
recipe: {model: resnet-demo, data: digits, prune: {macs: 0.5}}
"""


def expand(tmp_path, text, **options):
    file = tmp_path / "s.yaml"
    file.write_text(BASE + text)
    return trials(read_sweep(file), folder=tmp_path, names={}, options=options)


def test_a_grid_is_every_combination_by_name(tmp_path):
    found = expand(tmp_path, """
grid:
  prune.ratio: [0.3, 0.5]
  bits:
    w8a8: {quantize.weights: 8, quantize.activations: 8}
    float: {quantize: null}
""")  # fmt: skip
    assert [trial.name for trial in found] == [
        "ratio-0.3-w8a8", "ratio-0.3-float", "ratio-0.5-w8a8", "ratio-0.5-float",
    ]  # fmt: skip
    assert found[3].changes == {"prune.ratio": 0.5, "quantize": None}
    assert (found[3].recipe.prune.ratio, found[3].recipe.prune.macs, found[3].recipe.quantize) == (
        0.5,
        None,
        None,
    )


def test_a_search_draws_within_its_ranges_and_the_same_again(tmp_path):
    text = """
search:
  train.lr: {log_uniform: [0.001, 0.1]}
  train.epochs: {integer: [1, 3]}
  train.optimizer: {choice: [sgd, adamw]}
  train.momentum: {uniform: [0.5, 0.9]}
samples: 12
"""
    found = expand(tmp_path, text)
    sections = [trial.recipe.train for trial in found]
    assert len({trial.name for trial in found}) == 12
    assert all(0.001 <= t.lr < 0.1 and 0.5 <= t.momentum < 0.9 for t in sections)
    assert sum(t.lr < 0.01 for t in sections) == 6  # half of them below the geometric mean
    assert {t.epochs for t in sections} == {1, 2, 3}
    assert {t.optimizer for t in sections} == {"sgd", "adamw"}
    longer = expand(tmp_path, text.replace("12", "20"))
    assert [trial.key for trial in longer[:12]] == [trial.key for trial in found]


def test_options_overrule_the_recipe_and_names_cannot_leave_the_folder(tmp_path):
    (trial,) = expand(tmp_path, """
grid:
  way: {"../../etc/x": {train.epochs: 3}}
""", seed=7)  # fmt: skip
    assert trial.name == "etc-x"
    assert (trial.recipe.seed, trial.recipe.train.epochs) == (7, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing varies"),
        ("grdi: {train.lr: [1]}", "grdi.*no such key"),
        ("search: {train.lr: {uniform: [2, 1]}}", "from 2.0 down to 1.0"),
        ("search: {train.lr: {uniform: [1, 2], choice: [1]}}", "exactly one"),
        ("search: {train.lr: {log_uniform: [0, 1]}}", "above 0"),
        ("grid: {train.epochs: [1, -1]}", r"trial epochs--1, train\.epochs = -1"),
        ("grid: {train.epohcs: [1]}", "did you mean epochs"),
        ("grid: {train.lr: []}", r"grid, train\.lr: it has no values"),
        ("grid: {way: {}, seed: [1]}", "grid, way: it has no values"),
        ("grid: {seed: [0, 1, 0], train.lr: [0.1, 0.2]}", "grid, seed: it has 0 twice"),
        ("grid: {train.lr: [0.1, 1.0e-1]}", r"grid, train\.lr: it has 0\.1 twice"),
        ("search: {seed: {integer: [5, 2]}}", "seed: integer: it is from 5 down to 2; write the smaller"),
        ("search: {seed: {}}", "seed: range: it says nothing; write exactly one of uniform"),
        (
            f"search: {{seed: {{integer: [0, 1{'0' * 400}]}}}}",
            r"seed: integer: it reaches beyond ±1e\+15; narrow",
        ),
        (f"search: {{seed: {{integer: [-1{'0' * 16}, 0]}}}}", "it reaches beyond"),
        ("search: {train.lr: {uniform: [-1.7e+308, 1.7e+308]}}", "it reaches beyond"),
        ("search: {train.lr: {uniform: [0, .inf]}}", r"uniform\.1: .*finite number; it means: Between two"),
        ("search: {train.lr: {uniform: [.nan, 1]}}", "finite number"),
        ("search: {train.lr: {log_uniform: [1.0e-3, 1.0e+400]}}", "finite number"),
        ("search: {train.lr: {unifrom: [0, 1]}}", "no such key; the keys here are uniform, log_uniform"),
        ("search: {train.lr: 3}", r"search\.train\.lr: .*; it means: Recipe field"),
        (
            "resources: {cpu: 1}",
            r"resources\.cpu: there is no such key; the keys here are cpus, gpus, at_once",
        ),
        ("resources: {cpus: .inf}", "finite number; it means: Cores of a trial"),
        ("asha: {stage: qat}", r"asha\.stage: .*'train', 'recover' or 'sparsify'; it means: The training"),
        ("asha: 3", "asha: .*; it means: Stop trials early"),
        ("1: 2", "there is no such key; the keys here are format, recipe"),
        (
            "grid: {seed: [1], train.lr: [1]}\nsearch: {train.momentum: {uniform: [0, 0.9]}}\nsamples: 20000",
            "20000 trials",
        ),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        expand(tmp_path, text)


def test_a_base_recipe_in_a_file_beside_it(tmp_path):
    (tmp_path / "base.yaml").write_text("model: resnet-demo\ndata: digits\n")
    file = tmp_path / "s.yaml"
    file.write_text("recipe: base.yaml\ngrid: {seed: [0, 1]}\n")
    found = trials(read_sweep(file), folder=tmp_path, names={"model.name": "resnet20"}, options={})
    assert [(t.recipe.model.name, t.recipe.seed) for t in found] == [("resnet20", 0), ("resnet20", 1)]


def test_the_report_s_figure_is_five_bit_settings_at_six_sizes():
    file = Path(__file__).parents[2] / "recipes" / "fig5.yaml"
    found = trials(read_sweep(file), folder=file.parent, names={}, options={})
    settings = {(t.recipe.attention.weights, t.recipe.attention.activations) for t in found}
    assert settings == {(8, 8), (4, 8), (4, 4), (2, 8), (2, 4)}
    assert len({trial.key for trial in found}) == len(found) == 30
    assert len({str(trial.recipe.train) for trial in found}) == 1  # one dense network for all


def test_a_sweep_file_that_is_not_there_is_called_one(tmp_path):
    with pytest.raises(InputError, match=r"^sweep file .*none\.yaml: it cannot be read"):
        read_sweep(tmp_path / "none.yaml")
