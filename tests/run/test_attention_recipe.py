"""Attention pruning in a recipe: bad values are told before any training, a target that was missed at the end."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import pintsize as ps
from pintsize import report
from pintsize.cli import main
from pintsize.errors import CorruptFile, IllegalOrder, InputError, InputTypeError
from pintsize.pruning import AttentionOptions
from pintsize.pruning.attention import check as attention_check
from pintsize.pruning.attention.check import check_attention
from pintsize.quant.ptq.calibrate import planned
from pintsize.recipe.recipe import Recipe
from pintsize.recipe.section import table_of
from pintsize.run.stages.attention import outcome
from pintsize.storage.record import record
from pintsize.training.precision import PRECISIONS

TRAINING = {"epochs": 1, "batch_size": 32, "precision": "fp32"}
IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": 1, "activations": 8}, "weights=1: it is out of range; pass a whole number from 2 to 8"),
        ({"weights": 16, "activations": 8}, "weights=16: it is out of range"),
        ({"weights": 4, "activations": 1}, "activations=1: it is out of range"),
        ({"weights": 4, "activations": 9}, "activations=9: it is out of range"),
        ({"attention_lr": math.inf}, "attention_lr=inf: it is not finite; pass a number of at least 0"),
        ({"lr": math.nan}, "lr=nan: it is not finite"),
        ({"temperature": math.inf}, "temperature=inf: it is not finite"),
        ({"max_drop": math.nan}, "max_drop=nan: it is not finite"),
        ({"weight_penalty": 10**400}, "it is out of range"),
        ({"threshold": 0}, "threshold=0: it is out of range; pass a number above 0"),
        ({"target": 0.0}, r"target=0\.0: it is out of range; pass a number above 0, at most 1"),
        ({"target": 1.01}, r"target=1\.01: it is out of range"),
        ({"patience": 0}, "patience=0: it is out of range; pass a whole number of at least 1"),
        ({"precision": "fp16"}, "precision 'fp16': there is no such precision; did you mean"),
        ({"start": (0.0, 0.0)}, r"start=\(0\.0, 0\.0\): .*not all of it may be 0; pass two rising numbers"),
        ({"start": (0.4, 1.5)}, "attention lies in"),
        ({"start": (math.nan, 0.5)}, "attention lies in"),
    ],
)
def test_values_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(InputError, match=message):
        AttentionOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": 4.0, "activations": 8}, r"weights=4\.0: it is no whole number; pass a whole number from"),
        ({"weights": 4, "activations": True}, "activations=True: it is no whole number"),
        ({"lr": "fast"}, "lr='fast': it is no number"),
        ({"lr": None}, "lr=None: it is no number"),
        ({"start": 0.5}, r"start=0\.5: it is no pair of numbers; pass two rising numbers, e\.g\. \(0\.4"),
        ({"start": ("a", "b")}, "it is no pair of numbers"),
        ({"start": (0.1, 0.2, 0.3)}, "it is no pair of numbers"),
        ({"ignore": "conv1"}, r"ignore='conv1': it is one string; pass a list of patterns, e\.g\. \['conv1'\]"),
        ({"ignore": None}, "ignore=None: it is no list of strings"),
        ({"ignore": ("conv1", 3)}, "it is no list of strings; pass a list of patterns"),
        ({"augment": "yes"}, "augment='yes': it is neither True nor False"),
        ({"distill": 1}, "distill=1: it is neither"),
        ({"keep_first": None}, "keep_first=None: it is neither"),
    ],
)  # fmt: skip
def test_values_of_the_wrong_type_are_refused_by_name(options, message):
    with pytest.raises(InputTypeError, match=message):
        AttentionOptions(**options)


def test_ends_of_ranges_are_in_them():
    AttentionOptions(weights=2, activations=8, target=1, threshold=1e-9, start=[0, 1], ignore=["conv1"], lr=0)
    AttentionOptions(weights=8, activations=2, target=None, max_drop=None, patience=None, precision="bf16")
    for precision in PRECISIONS:
        assert AttentionOptions(precision=precision).precision == precision


def test_a_recipe_names_itself_and_says_what_the_option_means():
    bits = {"attention": {"weights": 1, "activations": 8}, "quantize": None}
    with pytest.raises(InputError, match=r"r\.yaml, attention: weights=1: .* from 2 to 8"):
        Recipe.parse(bits, source="r.yaml")
    with pytest.raises(InputError, match=r"attention\.ignore = 'conv1': .*; it means: List of patterns"):
        Recipe.parse({"attention": {"ignore": "conv1"}})
    with pytest.raises(InputError, match="the keys here are per, .*precision$"):  # a seed is not among them
        Recipe.parse({"attention": {"zzz": 1}})


@pytest.mark.parametrize("seeds", [(7, None), (7, 3), (0, 3)])
def test_a_seed_of_its_own_is_refused(seeds):
    own, seed = seeds
    document = {"attention": {"seed": own}} | ({} if seed is None else {"seed": seed})
    said = rf"r\.yaml, attention\.seed={own}: a run has one seed, .* is {seed or 0}; .*set the recipe's seed"
    with pytest.raises(InputError, match=said):
        Recipe.parse(document, source="r.yaml")


def test_options_with_a_seed_are_refused_and_without_one_taken():
    with pytest.raises(InputError, match="set the recipe's seed"):
        Recipe.parse({"attention": AttentionOptions(seed=7), "seed": 3})
    assert Recipe.parse({"attention": AttentionOptions(target=0.5), "seed": 3}).seed == 3
    assert Recipe.parse({"attention": AttentionOptions(seed=7), "seed": 7}).seed == 7


def test_the_recipes_seed_holds_and_comes_back_from_its_file(tmp_path):
    recipe = Recipe.parse({"attention": {"target": 0.5, "seed": 7}, "seed": 7})  # as it was once written
    recipe.save(tmp_path / "r.yaml")
    assert Recipe.load(tmp_path / "r.yaml") == recipe
    written = yaml.safe_load((tmp_path / "r.yaml").read_text())
    assert (written["seed"], "seed" in written["attention"]) == (7, False)
    assert Recipe.parse({**written, "seed": 8}).seed == 8  # with another seed from the command line


def network():
    return ps.models.create("resnet-demo", in_channels=1)


def test_a_check_tells_what_does_not_fit_and_changes_nothing():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for bits in ({}, {"weights": 4, "activations": 4}):
        check_attention(model, IMAGES, AttentionOptions(**bits))
        with pytest.raises(InputError, match=r"ignore='layer9\.\*': it matches no layer"):
            check_attention(model, IMAGES, AttentionOptions(ignore=("layer9.*",), **bits))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert record(model) == ()
    with pytest.raises(InputError, match="no convolution"):
        check_attention(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), IMAGES, AttentionOptions())


def test_a_check_plans_the_quantizers_where_there_are_any(monkeypatch):
    seen = []

    def spy(model, example, bits, **options):
        seen.append(bits)
        return planned(model, example, bits, **options)

    monkeypatch.setattr(attention_check, "planned", spy)
    check_attention(network(), IMAGES, AttentionOptions())
    assert not seen
    check_attention(network(), IMAGES, AttentionOptions(weights=4, activations=6))
    assert seen == [{"weights": {"conv1": 8, "*": 4}, "activations": {"conv1": 8, "*": 6}}]


def test_a_check_refuses_what_may_not_be_pruned_any_more():
    model = network()
    ps.quantize(model, calibration=IMAGES, progress=False)
    with pytest.raises(IllegalOrder):
        check_attention(model, IMAGES, AttentionOptions())


@pytest.mark.parametrize("bits", [{}, {"weights": 4, "activations": 4}])
def test_what_does_not_fit_the_network_is_told_before_the_dense_training(tmp_path, bits):
    with pytest.raises(InputError, match=r"ignore='layer9\.\*': it matches no layer"):
        ps.compress(
            "resnet-demo", "digits", limit=60, out=tmp_path, progress=False,
            recipe={"train": TRAINING, "attention": {"ignore": ["layer9.*"], **bits}, "quantize": None},
        )  # fmt: skip
    assert not (tmp_path / "dense.safetensors").exists()


def test_an_untrained_network_of_constants_passes_the_rehearsal():
    """Blocks whose last norm begins at zero give constants, which is no fault before training."""
    model = ps.models.create("resnet20", stem="small", in_channels=1)
    for path, module in model.named_modules():
        if path.endswith("bn2"):
            nn.init.zeros_(module.weight)
    check_attention(model, torch.randn(2, 1, 16, 16), AttentionOptions(weights=4, activations=4))


def told(target, left, *, reason="all attention epochs were done", last=None, **options):
    """What a run with these results tells."""
    recipe = Recipe.parse({"attention": {"target": target, **options}})
    result = {
        "before": {"params": 1000, "macs": 1000},
        "after": {"params": round(1000 * left), "macs": 900},
        "history": [{"params": left if last is None else last}],
        "notes": [reason],
    }
    return outcome(recipe, {"attention": result})


def test_a_target_is_met_or_missed():
    missed = told(0.3, 0.412)
    assert (missed["target"], missed["left"], missed["met"]) == (0.3, 0.412, False)
    assert missed["reason"] == "all attention epochs were done"
    assert "allow more attention_epochs" in missed["remedy"]
    for left in (0.3, 0.2):
        met = told(0.3, left, reason="the target of 30.0% of the parameters is reached")
        assert (met["left"], met["met"], met["remedy"]) == (left, True, None)
    free = told(None, 0.412)
    assert (free["target"], free["left"], free["met"], free["remedy"]) == (None, 0.412, None, None)
    assert outcome(Recipe.parse({}), {}) is None


def test_a_target_that_the_drop_forbids_is_missed_for_that():
    back = told(0.3, 0.6, last=0.29, reason="the target of 30.0% of the parameters is reached", max_drop=2)
    assert (back["met"], back["left"]) == (False, 0.6)
    assert (back["reason"], back["remedy"]) == (
        "fewer would lose more than 2 points",
        "allow a larger max_drop",
    )
    assert (
        told(0.3, 0.6, max_drop=2)["reason"] == "all attention epochs were done"
    )  # the drop was no obstacle


RECIPE = {
    "model": "resnet-demo",
    "data": {"name": "digits", "limit": 60},
    "train": TRAINING,
    "attention": {"target": 0.01, "attention_epochs": 1, "recovery_epochs": 1, "batch_size": 32, "precision": "fp32"},
    "recover": {**TRAINING, "epochs": 0},
    "quantize": None,
    "export": {"threads": 1},
    "seed": 5,
}  # fmt: skip


def test_a_missed_target_is_told_on_the_screen_in_the_metrics_and_in_the_report(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    printed = []
    for recipe in ("r.yaml", "run/recipe.yaml"):  # a second start trains nothing, and tells it again
        with pytest.raises(SystemExit) as ended:
            main(["compress", "--recipe", str(tmp_path / recipe), "--out", str(tmp_path / "run")])
        printed.append(capsys.readouterr())
        assert ended.value.code == 0, printed[-1].err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    found = metrics["attention"]
    assert (found["target"], found["met"], found["reason"]) == (0.01, False, "all attention epochs were done")
    dense, pruned = metrics["stages"]
    assert found["left"] == pytest.approx(pruned["params"] / dense["params"])
    left = f"{100 * found['left']:.4g} % of the parameters are left"
    line = f"{left}, 1 % were asked for (all attention epochs were done; allow more attention_epochs"
    assert [f"\nattention  target not met: {line}" in one.out for one in printed] == [True, True]
    assert "epoch 1/1" not in printed[1].err
    page = (tmp_path / "run" / "report.html").read_text()
    assert f'<p class="verdict failed">✗ The target of attention was not met: {line}' in page


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "✗ The target of attention was not met: 41.23 % {}, 30 % were asked for (why; how)."),
        ({"left": 0.295, "met": True}, "✓ The target of attention was met: 29.5 % {}, 30 % were asked for."),
        ({"target": None, "met": None}, "Attention: 41.23 % {} (why)."),
    ],
)  # fmt: skip
def test_the_report_says_what_came_of_a_target(tmp_path, changes, text):
    found = {"left": 0.41234, "target": 0.3, "met": False, "reason": "why", "remedy": "how", **changes}
    (tmp_path / "metrics.json").write_text(json.dumps({"format": 1, "attention": found}))
    assert f">{text.format('of the parameters are left')}</p>" in report.write(tmp_path).read_text()


def test_a_report_without_attention_says_nothing_of_it_and_of_damaged_metrics_what_is_wrong(tmp_path):
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({"format": 1, "attention": None}))
    assert "ttention" not in report.write(tmp_path).read_text()
    metrics.write_text(json.dumps({"format": 1, "attention": {"met": False}}))
    with pytest.raises(CorruptFile, match=r"attention\.left"):
        report.write(tmp_path)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What `recipes/attention-demo.yaml` gives."""
    folder = tmp_path_factory.mktemp("attention") / "demo"
    recipe = Path(__file__).parents[2] / "recipes/attention-demo.yaml"
    return ps.compress(recipe=recipe, out=folder, progress=False)


def test_the_demo_keeps_less_than_half_of_the_channels(demo):
    pruned = json.loads((demo.folder / "stages/attention.json").read_text())["result"]
    assert pruned["after"]["channels"] <= 0.5 * pruned["before"]["channels"]
    assert pruned["error"] <= 1e-5  # realised and masked network agree
    dense, cut, int8 = demo.metrics["stages"]
    assert cut["accuracy"] >= dense["accuracy"] - 1
    assert int8["accuracy"] >= dense["accuracy"] - 1
    channels = {}
    for file in ("dense", "pruned"):
        network = ps.load(demo.folder / f"{file}.safetensors")
        convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
        channels[file] = sum(module.out_channels for module in convolutions)
    assert channels["pruned"] < 0.6 * channels["dense"]  # those of the stem are among them, which stays whole
    assert demo.metrics["attention"]["met"]


@pytest.mark.parametrize("option", dataclasses.fields(AttentionOptions), ids=lambda option: option.name)
def test_every_option_is_in_the_docs(option):
    page = (Path(__file__).parents[2] / "docs/methods/attention.md").read_text()
    assert "<!-- options: attention -->" in page
    rows = [
        line
        for line in table_of("attention").splitlines()
        if line.startswith(f"| `{option.name}` | `") or "| none |" in line
    ]
    assert any(option.metadata["help"].rstrip(".") in row for row in rows)
