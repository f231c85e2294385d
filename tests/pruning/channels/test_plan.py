"""Plans as JSON, replayed on plain networks, joined, inverted into masks, and saved with the network."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import pintsize as ps
from pintsize import errors
from structures import CASES, reference

NETWORKS = ("alexnet", "mobilenetv2", "resnet32", "resnet50", "shufflenetv2-x0.5", "vgg16-bn")


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return reference.randomise(CASES[name].make())


def pruned(name: str, **options: object) -> tuple[nn.Module, nn.Module, ps.PruningPlan]:
    model = made(name)
    dense = copy.deepcopy(model)
    plan = ps.prune(model, CASES[name].example(), **{"ratio": 0.5, "scope": "local", **options})
    return dense, model, plan


@pytest.mark.parametrize("name", CASES)
def test_a_plan_survives_json_and_fits_the_plain_network(name: str) -> None:
    dense, model, plan = pruned(name)
    again = ps.PruningPlan.from_json(json.dumps(plan.to_json()))
    assert again == plan
    again.apply(dense)
    assert {k: v.shape for k, v in dense.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    dense.load_state_dict(model.state_dict())
    example = CASES[name].example()
    assert reference.error(reference.outputs(model, example), reference.outputs(dense, example)) == 0
    assert reference.inconsistent(dense) == []


def test_networks_read_in_a_fresh_process_give_identical_outputs(tmp_path: Path) -> None:
    expected: dict[str, list[Tensor]] = {}
    torch.manual_seed(0)
    inputs = {name: CASES[name].example() for name in CASES} | {
        name: torch.randn(1, 3, 64, 64) for name in NETWORKS
    }
    for name, example in inputs.items():
        if name in CASES:
            model = made(name)
        else:
            stem = "imagenet" if name in {"alexnet", "vgg16-bn"} else "small"
            model = ps.models.create(name, num_classes=7, stem=stem)
            ps.prune(model, example, ratio=0.8, scope="local", importance="random")
        ps.prune(model, example, ratio=0.3, scope="local")
        ps.prune(model, example, ratio=0.3)
        ps.save(model, tmp_path / f"{name}.safetensors")
        expected[name] = reference.outputs(model, example)
    torch.save(inputs, tmp_path / "inputs.pt")
    script = """
import sys, torch, pintsize as ps
from pathlib import Path
from safetensors.torch import save_file
from structures import CASES, reference
torch.set_num_threads(int(sys.argv[2]))
folder, found = Path(sys.argv[1]), {}
for name, example in torch.load(folder / "inputs.pt", weights_only=True).items():
    plain = CASES[name].make() if name in CASES else None
    model = ps.load(folder / f"{name}.safetensors", model=plain)
    assert reference.inconsistent(model) == []
    for k, tensor in enumerate(reference.outputs(model, example)):
        found[f"{name} {k}"] = tensor.contiguous()
save_file(found, folder / "outputs.safetensors")
"""
    threads = str(torch.get_num_threads())
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), threads],
        check=True, env={"PYTHONPATH": str(Path(reference.__file__).parents[1]), "PATH": ""}, timeout=120,
    )  # fmt: skip
    found = load_file(tmp_path / "outputs.safetensors")
    for name, tensors in expected.items():
        for k, tensor in enumerate(tensors):
            assert torch.equal(found[f"{name} {k}"], tensor), name


@pytest.mark.parametrize(
    "name", ["Residual", "C2f", "GroupedUnaligned", "TwoInputsThreeOutputs", "Transposed", "Weighted"]
)
def test_masks_make_of_the_dense_network_what_the_pruned_one_computes(name: str) -> None:
    dense, model, plan = pruned(name, fold_constants=False)
    masks = plan.masks(dense)
    assert masks.keys() == plan.removed.keys()
    kept = {k: int(m.sum()) for k, m in masks.items()}
    assert kept == {k: v.numel() for k, v in model.state_dict().items() if k in masks}
    plan.mask(dense)
    example = CASES[name].example()
    assert reference.error(reference.outputs(dense, example), reference.outputs(model, example)) < 1e-5


def test_the_weights_that_are_kept_are_the_dense_ones() -> None:
    dense, model, plan = pruned("UNet", fold_constants=False)
    small = model.state_dict()
    for name, mask in plan.masks(dense).items():
        assert torch.equal(dense.state_dict()[name][mask.bool()], small[name].flatten())


def test_two_plans_as_one() -> None:
    first = ps.PruningPlan({"a": {0: [1, 3]}}, {"m": {"out": 3, "in": 9}}, error=0.1, notes=("x",))
    second = ps.PruningPlan({"a": {0: [0, 2], 1: [4]}, "b": {0: [1]}}, {"m": {"out": 1}}, ("c",), error=0.2)
    # of a's five rows 0, 2 and 4 were left; 0 and 4 of the five go now
    whole = first.then(second)
    assert whole.removed == {"a": {0: [0, 1, 3, 4], 1: [4]}, "b": {0: [1]}}
    assert whole.attributes == {"m": {"out": 1, "in": 9}}
    assert (whole.biases, whole.error, whole.notes) == (("c",), 0.2, ("x",))


@pytest.mark.parametrize("name", ["Residual", "ShuffleByView", "ConvNeXt", "Res2Net", "PaddedShortcutModule"])
def test_a_joined_plan_does_what_both_did(name: str) -> None:
    dense, model, first = pruned(name, ratio=0.3, fold_constants=False)
    second = ps.prune(model, CASES[name].example(), ratio=0.4, fold_constants=False, importance="random")
    first.then(second).apply(dense)
    assert {k: v.shape for k, v in dense.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in dense.state_dict().items())
    assert reference.inconsistent(dense) == []
    example = CASES[name].example()
    assert reference.error(reference.outputs(dense, example), reference.outputs(model, example)) == 0


def test_a_plan_for_another_network_is_refused_and_changes_nothing() -> None:
    _, _, plan = pruned("Residual")
    for other in (CASES["Plain"].make(), pruned("Residual")[1]):
        before = {k: v.clone() for k, v in other.state_dict().items()}
        with pytest.raises(errors.InputError, match="it does not fit"):
            plan.apply(other)
        after = other.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[k], after[k]) for k in before)
        assert reference.inconsistent(other) == []


def test_masks_of_another_network_are_refused() -> None:
    _, _, plan = pruned("Residual")
    with pytest.raises(errors.InputError, match="has no such parameter"):
        plan.masks(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "document",
    ["{", "[]", "{}", '{"removed": {"a": 3}, "attributes": {}}', '{"removed": {}, "attributes": {}, "x": 1}'],
)
def test_a_document_that_is_no_plan_is_refused(document: str) -> None:
    with pytest.raises(errors.InputError, match="pruning plan: it does not parse"):
        ps.PruningPlan.from_json(document)


def test_a_plan_reads_well() -> None:
    _, _, plan = pruned("Residual", fold_constants=False)
    lines = str(plan).splitlines()
    assert [line.split(":")[0] for line in lines] == ["params", "macs", "bytes", "channels"]
    assert lines[3] == "channels: 20 → 10 (50.0% kept)"


def without_biases() -> nn.Sequential:
    """What the batch norm leaves behind goes into biases of layers that have none and are cut themselves."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 10, 3, bias=False),
        nn.ReLU(), nn.Conv2d(10, 6, 1, bias=False), nn.ReLU(), nn.Conv2d(6, 3, 1, bias=False),
    )  # fmt: skip


def test_biases_of_layers_that_are_cut_themselves_are_replayed_and_joined(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense, x = reference.randomise(without_biases()), torch.randn(2, 3, 9, 9)
    model = copy.deepcopy(dense)
    first = ps.prune(model, x, ratio=0.5, scope="local")
    second = ps.prune(model, x, ratio=0.5, scope="local")
    assert "3" in first.biases
    assert second.removed["3.bias"] == {0: second.removed["3.weight"][0]}
    ps.save(model, tmp_path / "net.safetensors")
    loaded = ps.load(tmp_path / "net.safetensors", model=without_biases())
    assert torch.equal(loaded(x), model.eval()(x))
    whole = first.then(second)
    assert "3.bias" not in whole.removed
    whole.masks(dense)
    whole.apply(dense)
    assert {k: v.shape for k, v in dense.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
