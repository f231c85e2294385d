import inspect
from pathlib import Path

import pytest
import yaml

import pintsize as ps
from pintsize import data, models
from pintsize.errors import InputError, InputTypeError
from pintsize.pruning.channels import importance
from pintsize.recipe.options import OPTIONS, changes, with_options
from pintsize.recipe.recipe import Recipe, merge
from pintsize.recipe.section import SECTIONS
from pintsize.recipe.yaml import read_yaml
from pintsize.run.stages.stages import forms_of, packed
from pintsize.storage.digests import digest, in_order

RECIPES = Path(__file__).parents[2] / "recipes"
SWEEPS = {"fig5"}


def refused(document, match):
    with pytest.raises(InputError, match=match):
        Recipe.parse(document, source="r.yaml")


def test_defaults_prune_nothing_and_quantize_to_eight_bits():
    recipe = Recipe.parse({})
    assert recipe.prune is None
    assert recipe.recover is None
    assert recipe.quantize is not None
    assert (recipe.quantize.weights, recipe.quantize.activations) == (8, 8)
    assert (recipe.format, recipe.seed) == (1, 0)


def test_training_quantized_needs_something_quantized():
    refused({"quantize": None, "qat": {"epochs": 3}}, "qat trains the network that quantize gives")
    refused({"budget": {"max_drop": 1, "minimize": "bytes"}, "qat": {}}, "and there is none")


def test_a_recipe_comes_back_from_its_file_as_it_was(tmp_path):
    recipe = Recipe.parse(
        {
            "model": "resnet18",
            "data": {"name": "digits", "limit": 40},
            "prune": {"macs": 0.5, "round_to": "auto", "ignore": ["fc", "layer4.*"]},
            "recover": {"epochs": 3, "distill": False},
            "quantize": None,
            "seed": 7,
        }
    )
    recipe.save(tmp_path / "r.yaml")
    assert Recipe.load(tmp_path / "r.yaml") == recipe
    assert recipe.model is not None
    assert recipe.model.name == "resnet18"


def test_bits_by_pattern_are_written_as_a_mapping_or_a_text(tmp_path):
    recipe = Recipe.parse(
        {
            "quantize": {
                "weights": {"fc": None, "layer1.*": 4},
                "activations": "fc=none, layer1.*=4",
                "edges": "none",
            }
        }
    )
    recipe.save(tmp_path / "r.yaml")
    again = Recipe.load(tmp_path / "r.yaml")
    for found in (recipe.quantize, again.quantize):
        assert found is not None
        assert (
            list(found.weights.items()) == list(found.activations.items()) == [("fc", None), ("layer1.*", 4)]
        )
        assert found.edges is None
    assert Recipe.parse(with_options({}, {"weights": "none", "activations": "4"})).quantize.weights is None
    assert Recipe.parse({"quantize": "none"}).quantize is None


def test_the_order_of_patterns_counts_in_what_a_stage_depends_on():
    orders = [{"a": 4, "*": 8}, {"*": 8, "a": 4}]
    first, second = (
        in_order(Recipe.parse({"quantize": {"weights": one}}).quantize.model_dump()) for one in orders
    )
    assert digest(first) != digest(second)
    assert in_order({"weights": 8, "ignore": ["a"]}) == {"weights": 8, "ignore": ["a"]}


@pytest.mark.parametrize(
    ("quantize", "label", "pint"),
    [
        ({}, "dense int8", False),
        ({"weights": 4}, "dense w4a8", True),
        ({"activations": None}, "dense w8a32", False),
        ({"weights": {"fc": None}}, "dense mixed bits", False),
        ({"weights": {"fc": 8, "layer1": 4}}, "dense mixed bits", True),
    ],
)
def test_what_a_run_calls_its_quantized_network(quantize, label, pint):
    recipe = Recipe.parse({"quantize": quantize})
    assert forms_of(recipe)[-1].label == label
    assert packed(recipe) == pint


def test_numbers_that_yaml_takes_for_text_are_numbers():
    recipe = Recipe.parse(yaml.safe_load("train: {lr: 1e-3}"))
    assert recipe.train.lr == 0.001


def test_an_unknown_key_is_refused_with_the_nearest_one():
    refused({"prune": {"ration": 0.5}}, r"r\.yaml, prune\.ration: there is no such key; did you mean ratio")
    refused({"qantize": {}}, "did you mean quantize")
    refused({"train": {"zzz": 1}}, "the keys here are epochs, lr")


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ({"prune": {"ratio": 1.0}}, r"prune\.ratio = 1\.0: input should be less than 1"),
        ({"prune": {"ratio": -0.1}}, "greater than or equal to 0"),
        ({"prune": {"macs": 0}}, "greater than 0"),
        ({"prune": {}}, "exactly one of ratio, params, macs, bytes .* none is given"),
        ({"prune": {"ratio": 0.5, "macs": 0.5}}, "ratio and macs are given"),
        ({"train": {"epochs": -1}}, r"train\.epochs = -1"),
        ({"train": {"epochs": 2.5}}, r"train\.epochs = 2\.5"),
        ({"train": {"lr": "fast"}}, r"train\.lr = 'fast': .*valid number"),
        ({"train": {"lr": float("nan")}}, r"train\.lr"),
        ({"train": {"optimizer": "sdg"}}, "'sgd', 'adam' or 'adamw'"),
        ({"train": 3}, "r.yaml, train = 3"),
        ({"recover": {"epochs": 1}}, "nothing is pruned"),
        ({"model": {}}, r"model\.name: it is missing"),
        ({"export": {"opset": 13}}, "greater than or equal to 19"),
        (
            {"quantize": {"weights": {"fc": "few"}}},
            r"quantize\.weights: 'fc=few': 'few' is no number of bits; write a whole number, none .*,fc=none$",
        ),
        ({"quantize": {"weights": {3: 4}}}, "'3=4': it names no layer"),
        ({"quantize": {"activations": {}}}, r"quantize\.activations: .* it names no layer"),
        ({"quantize": {"weights": 2.5}}, "2.5 is no number of bits"),
        ({"quantize": {"weights": True}}, "True is no number of bits"),
        ({"quantize": {"weights": float("inf")}}, "inf is no number of bits"),
        ({"quantize": {"iterations": 0}}, r"quantize\.iterations = 0"),
        (
            {"budget": {"max_drop": 1}, "quantize": {"weights": {"fc": 4}}},
            "budget chooses the bits of each layer",
        ),
        ({"budget": {"max_drop": 1}, "quantize": {"edges": 4}}, "and no edges"),
        ({"format": 2}, "format 2: this version of pintsize reads format 1"),
        ([1], "it is not a mapping"),
        (None, "it is not a mapping"),
    ],
)
def test_impossible_values_are_refused_by_name(document, match):
    refused(document, match)


def test_files_that_are_no_recipe(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Recipe.load(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("train: {epochs: [1\n")
    with pytest.raises(InputError, match=r"it is no YAML .*line"):
        Recipe.load(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is no YAML"):
        Recipe.load(broken)


def test_no_tag_in_a_yaml_file_is_obeyed(tmp_path):
    file = tmp_path / "r.yaml"
    target = tmp_path / "made"
    file.write_text(
        f"seed: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{target}']]"
    )
    with pytest.raises(InputError, match="it is no YAML"):
        read_yaml(file)
    assert not target.exists()


def test_merge_reaches_into_sections_and_leaves_the_base_alone():
    base = {"train": {"epochs": 3, "lr": 0.1}, "model": "resnet18"}
    merged = merge(base, {"train.lr": 0.2, "model.stem": "small", "seed": 4})
    assert merged == {
        "train": {"epochs": 3, "lr": 0.2},
        "model": {"name": "resnet18", "stem": "small"},
        "seed": 4,
    }
    assert base == {"train": {"epochs": 3, "lr": 0.1}, "model": "resnet18"}
    with pytest.raises(InputTypeError, match="recipe key train: it is 3"):
        merge({"train": 3}, {"train.lr": 0.2})


def test_every_field_has_one_flat_name_and_a_description():
    assert len({option.key for option in OPTIONS.values()}) == len(OPTIONS)
    fields = sum(len(section.fields()) for section in SECTIONS.values())
    assert len(OPTIONS) == fields - len({"model.name", "data.name", "attention.seed"}) + len({"seed"})
    assert [option.name for option in OPTIONS.values() if not option.description] == []


def test_options_have_the_names_of_their_fields():
    assert OPTIONS["ratio"].key == "prune.ratio"
    assert OPTIONS["weights"].key == "quantize.weights"
    assert OPTIONS["model_weights"].key == "model.weights"
    assert OPTIONS["recover_epochs"].key == "recover.epochs"
    assert OPTIONS["temperature"].key == "recover.temperature"
    assert OPTIONS["quantize_ignore"].key == "quantize.ignore"


def test_options_that_are_not_given_change_nothing():
    assert changes({"ratio": None, "epochs": 3}) == {"train.epochs": 3}


def test_an_unknown_option_is_refused_with_the_nearest_one():
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        changes({"epoch": 3})


def test_an_amount_that_is_given_replaces_the_recipes_other_one():
    document = with_options({"prune": {"macs": 0.5, "importance": "l1"}}, {"ratio": 0.25})
    prune = Recipe.parse(document).prune
    assert prune is not None
    assert (prune.ratio, prune.macs, prune.importance) == (0.25, None, "l1")


def test_two_amounts_at_once_stay_a_mistake():
    with pytest.raises(InputError, match="ratio and macs are given"):
        Recipe.parse(with_options({}, {"ratio": 0.25, "macs": 0.5}))


@pytest.mark.parametrize(
    "path", [p for p in sorted(RECIPES.glob("*.yaml")) if p.stem not in SWEEPS], ids=lambda path: path.stem
)
def test_the_recipes_of_the_project_are_valid(path):
    recipe = Recipe.load(path)
    assert recipe.model is not None
    assert recipe.data is not None
    assert recipe.model.name in models.list()
    assert recipe.data.name in data.list()
    assert recipe.prune is None or recipe.prune.importance in importance.names()


CALLS = {
    "train": "train", "prune": "prune", "sparsify": "sparsify", "rounds": "prune_rounds", "cluster": "cluster",
    "quantize": "quantize", "fixed_point": "fixed_point",
}  # fmt: skip
OF_THE_RUN = {
    "epochs",
    "lr",
    "batch_size",
    "regularize",
    "from_scratch",
    "schedule",
    "epoch",
    "end",
    "every",
    "densities",
}
"""How a run trains while it does this: no keywords of the call itself."""


@pytest.mark.parametrize("name", CALLS)
def test_the_keywords_of_a_call_are_its_section_with_the_same_defaults(name):
    keywords = inspect.signature(getattr(ps, CALLS[name])).parameters
    fields = SECTIONS[name].fields()
    assert fields.keys() - keywords.keys() <= OF_THE_RUN
    differ = {
        field.name: (field.default, keywords[field.name].default)
        for field in fields.values()
        if field.name in keywords
        and field.default is not ...
        and keywords[field.name].default != field.default
    }
    # a run makes a file, and rounds to what its runtime likes; a call prunes what it is told to
    assert differ == ({"round_to": ("auto", 1)} if name == "prune" else {})
