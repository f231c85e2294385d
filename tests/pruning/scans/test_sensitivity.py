"""The scan: same numbers with and without reuse, resumable, rules from curves."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pintsize as ps
from pintsize.errors import CorruptFile, InputError, InputTypeError
from pintsize.pruning.rules.stages import RuleStages
from pintsize.pruning.scans.prefix import Prefix
from pintsize.pruning.scans.scan import Curve, Sensitivity, sensitivity
from pintsize.tasks.classification import Classification


@pytest.fixture(scope="module")
def digits():
    return ps.data.load("digits", limit=300)


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    model = ps.models.create("resnet-demo", in_channels=1)
    ps.train(model, digits, epochs=3, lr=0.05, augment=False, progress=False)
    return model


class Twisted(nn.Module):
    """Functional calls, in-place writes, a module used twice, an output that is read late."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.twice, self.act = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True)
        self.down, self.last = nn.Conv2d(6, 6, 1), nn.Linear(12, 10)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        y = self.twice(x)
        y += self.down(x)
        F.relu_(y)
        z = self.twice(y) * x.shape[2]
        return self.last(torch.cat([z.mean((2, 3)), x.amax((2, 3))], 1))


@pytest.mark.parametrize("level", ["weight", "filter", "group"])
@pytest.mark.parametrize("make", ["resnet-demo", Twisted])
def test_reuse_gives_the_same_numbers(level, make, digits):
    torch.manual_seed(0)
    model = ps.models.create(make, in_channels=1) if isinstance(make, str) else make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = {"level": level, "ratios": (0.3, 0.8), "batch_size": 64, "progress": False}
    whole = sensitivity(model, digits, reuse=False, **options)
    assert sensitivity(model, digits, **options) == whole
    parts = sensitivity(model, digits, memory=200_000, **options)  # in several goes
    assert [curve.accuracy for curve in parts.curves] == [curve.accuracy for curve in whole.curves]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_prefix_is_really_left_out(digits):
    model = Twisted().eval()
    calls = []
    inner = model.stem.forward
    model.stem.forward = counting = lambda x: (calls.append(1), inner(x))[1]
    with Prefix(model, [next(iter(digits.val.batches(32)))], Classification()) as prefix:
        prefix.advance(["down"])
        calls.clear()
        prefix.score()
        assert not calls
    assert model.stem.forward is counting


def test_curves_are_what_evaluation_finds(trained, digits):
    found = sensitivity(trained, digits, ratios=(0.5,), progress=False)
    assert found.accuracy == pytest.approx(ps.evaluate(trained, digits.val))
    curve = found.curves[0]
    weight = dict(trained.named_parameters())[curve.name]
    saved = weight.detach().clone()
    count = int(0.5 * weight.numel() + 0.5)
    smallest = weight.detach().abs().reshape(-1).argsort(stable=True)[:count]
    weight.data.view(-1)[smallest] = 0
    accuracy = ps.evaluate(trained, digits.val)
    weight.data.copy_(saved)
    assert curve.accuracy[0] == pytest.approx(accuracy)


def test_group_level_is_what_pruning_gives(trained, digits):
    example = next(iter(digits.val.batches(2)))[0]
    found = sensitivity(trained, digits, level="group", ratios=(0.5,), progress=False)
    curve = found.curves[1]
    pruned = copy.deepcopy(trained)
    ps.prune(pruned, example, ratios={curve.name: 0.5}, scope="local", importance="l2", fold_constants=False)
    assert ps.evaluate(pruned, digits.val) == pytest.approx(curve.accuracy[0])


def test_a_scan_that_was_stopped_goes_on(trained, digits, tmp_path, monkeypatch):
    path = tmp_path / "scan.json"
    options = {"ratios": (0.5, 0.9), "progress": False}
    whole = sensitivity(trained, digits, **options)
    advance, count = Prefix.advance, []

    def dies(self, layers):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        advance(self, layers)

    monkeypatch.setattr(Prefix, "advance", dies)
    with pytest.raises(KeyboardInterrupt):
        sensitivity(trained, digits, path=path, **options)
    with pytest.raises(InputError, match="not finished"):
        Sensitivity.load(path)
    count[:] = [1] * 10
    assert sensitivity(trained, digits, path=path, **options) == whole
    assert len(count) == 10 + len(whole.curves) - 2
    assert Sensitivity.load(path) == whole
    with pytest.raises(InputError, match="another scan"):
        sensitivity(trained, digits, path=path, ratios=(0.5,), progress=False)
    path.write_text("{")
    with pytest.raises(CorruptFile):
        sensitivity(trained, digits, path=path, **options)


def made() -> Sensitivity:
    curves = [
        Curve("a.weight", ["a.weight"], 4, [89.8, 89.0, 89.9], [0.0] * 3),
        Curve("b.0.weight", ["b.0.weight"], 4, [90.0, 90.2, 89.5], [0.0] * 3),
        Curve("c.weight", ["c.weight"], 4, [80.0, 70.0, 60.0], [0.0] * 3),
    ]
    return Sensitivity("weight", "magnitude", [0.2, 0.5, 0.9], 90.0, 0.0, 100, curves)


def test_rules_from_curves_by_hand(tmp_path):
    rules = made().to_rules(0.5)
    assert rules.text() == "a\\.weight,0.2,abs\nb\\.0\\.weight,0.9,abs\nc\\.weight,0,abs\n"
    assert made().to_rules(0.5, stages=2).rules[1].sparsities == (0.45, 0.9)
    made().save(tmp_path / "s.json")
    assert Sensitivity.load(tmp_path / "s.json") == made()
    with pytest.raises(InputError, match="no drop"):
        made().to_rules(-1)
    first, second = Curve("a", ["a.weight", "b.weight"], 8, [90.0, 0.0, 0.0], [0.0] * 3), made().curves[1]
    both = Sensitivity("group", "l2", [0.2, 0.5, 0.9], 90.0, 0.0, 100, [
        dataclasses.replace(second, parameters=["b.weight"]), first])  # fmt: skip
    assert both.to_rules(0.5).text() == "b\\.weight,0.2,l2norm\na\\.weight,0.2,l2norm\n"
    only = Sensitivity("weight", "magnitude", [0.2, 0.5, 0.9], 90.0, 0.0, 100, made().curves[2:])
    with pytest.raises(InputError, match="costs more"):
        only.to_rules(0.5)


def test_scanned_rules_can_be_carried_out(trained, digits):

    example = next(iter(digits.val.batches(2)))[0]
    for level in ("weight", "filter", "group"):
        model = copy.deepcopy(trained)
        found = sensitivity(model, digits, level=level, ratios=(0.25, 0.5), progress=False)
        RuleStages(model, found.to_rules(100), example=example).run(0)
        assert ps.evaluate(model, digits.val) >= 0
        assert found.plot(max_drop=1.0).axes
        assert found.curves[0].name in found.table()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"level": "layer"}, "no such level"),
        ({"ratios": ()}, "rise"),
        ({"ratios": (0.5, 0.2)}, "rise"),
        ({"ratios": (0.0, 0.2)}, "rise"),
        ({"importance": "magnitud"}, "magnitude"),
        ({"ignore": "nothing"}, "matches no part"),
        ({"ignore": "*"}, "nothing to prune"),
    ],
)
def test_bad_options(options, match, digits):
    with pytest.raises(InputError, match=match):
        sensitivity(Twisted(), digits, progress=False, **options)
    with pytest.raises(InputError, match="no images"):
        sensitivity(Twisted(), [], progress=False)


def test_without_labels_the_network_itself_is_the_judge():
    photos = [torch.rand(4, 1, 6, 6) for _ in range(3)]
    data = ps.data.from_loaders(photos, photos)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))
    for given in (data, data.val):
        found = ps.sensitivity(net, given, task="imitation", ratios=(0.2, 0.8), progress=False)
        assert found.accuracy == pytest.approx(100)
        assert all(100 > few > many for few, many in (curve.accuracy for curve in found.curves))
    assert ps.layer_importance(net, data, ratios=(0.5,), progress=False).without.accuracy == pytest.approx(
        100
    )
    with pytest.raises(InputTypeError, match="there is nothing to judge by; give out"):
        ps.sensitivity(net, photos, task="imitation", progress=False)
