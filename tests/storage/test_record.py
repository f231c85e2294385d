import copy
import dataclasses
import json
from typing import ClassVar

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import CorruptFile, IllegalOrder, InputError
from pintsize.storage.record import (
    FORMAT,
    Step,
    append,
    check_order,
    inherit,
    origin,
    record,
    register,
    replay,
    set_origin,
    steps_from_json,
    to_json,
)


@register
@dataclasses.dataclass(frozen=True)
class Widen(Step):
    kind: ClassVar[str] = "test-widen"
    may_follow: ClassVar[frozenset[str]] = frozenset({"test-widen"})

    layer: str
    features: int

    def apply(self, model):
        old = model.get_submodule(self.layer)
        model.set_submodule(self.layer, nn.Linear(old.in_features, self.features))


@register
@dataclasses.dataclass(frozen=True)
class Seal(Step):
    kind: ClassVar[str] = "test-seal"
    may_follow: ClassVar[frozenset[str]] = frozenset({"test-widen"})
    reason: ClassVar[str] = "a seal is put on once"

    def apply(self, model):
        pass


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU())


def test_a_new_network_has_an_empty_record():
    assert record(network()) == ()
    assert origin(network()) is None


def test_steps_are_appended_in_order_and_copied_with_the_network():
    model = network()
    append(model, Widen("0", 5))
    append(model, Widen("0", 6))
    twin = copy.deepcopy(model)
    append(twin, Seal())
    assert record(model) == (Widen("0", 5), Widen("0", 6))
    assert record(twin) == (Widen("0", 5), Widen("0", 6), Seal())
    assert not any("record" in name for name in model.state_dict())


def test_an_illegal_order_is_refused_with_the_reason_and_changes_nothing():
    model = network()
    append(model, Seal())
    with pytest.raises(IllegalOrder, match=r"'test-seal' after 'test-seal': a seal is put on once"):
        append(model, Seal())
    with pytest.raises(IllegalOrder, match="'test-widen' after 'test-seal'"):
        check_order(model, Widen)
    assert record(model) == (Seal(),)


def test_replaying_the_json_of_a_record_on_the_plain_network_repeats_it():
    model = network()
    for features in (5, 7):
        step = Widen("0", features)
        step.apply(model)
        append(model, step)
    document = json.loads(json.dumps(to_json(model)))
    plain = network()
    replay(plain, steps_from_json(document, source="here"), source="here")
    assert plain[0].out_features == 7
    assert record(plain) == record(model)


def test_replay_refuses_a_network_that_has_been_changed_already():
    model = network()
    append(model, Seal())
    with pytest.raises(InputError, match="already been compressed"):
        replay(model, [], source="here")


def test_a_step_that_does_not_fit_the_network_names_file_and_step():
    with pytest.raises(InputError, match=r"net\.safetensors: step 1 \('test-widen'\) .* does not fit"):
        replay(network(), [Widen("0", 5), Widen("9", 5)], source="net.safetensors")


@pytest.mark.parametrize(
    ("document", "match"),
    [
        (None, "not a pintsize record"),
        ([], "not a pintsize record"),
        ({"format": FORMAT}, "not a pintsize record"),
        ({"format": FORMAT, "steps": 3}, "not a pintsize record"),
        ({"format": FORMAT, "steps": [{}]}, "step 0 of its record has no kind"),
        ({"format": FORMAT, "steps": ["x"]}, "step 0 of its record has no kind"),
        ({"format": FORMAT, "steps": [{"kind": "test-widen"}]}, "does not parse"),
        ({"format": FORMAT, "steps": [{"kind": "test-widen", "x": 1}]}, "does not parse"),
    ],
)
def test_damaged_records_are_refused(document, match):
    with pytest.raises(CorruptFile, match=match):
        steps_from_json(document, source="f")


def test_another_format_and_an_unknown_kind_are_told_apart_from_damage():
    with pytest.raises(InputError, match=rf"has format 99, this version reads {FORMAT}"):
        steps_from_json({"format": 99, "steps": []}, source="f")
    with pytest.raises(InputError, match="did you mean 'test-widen'"):
        steps_from_json({"format": FORMAT, "steps": [{"kind": "test-widn"}]}, source="f")


def test_origin_and_record_are_inherited():
    source, heir = network(), network()
    set_origin(source, "resnet18", {"num_classes": 10})
    append(source, Seal())
    inherit(heir, source)
    assert origin(heir) == {"name": "resnet18", "options": {"num_classes": 10}}
    assert record(heir) == (Seal(),)


class Detector(nn.Module):
    """A backbone and a head, and something around them that cannot be traced."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, images):
        return self.head(self.backbone(torch.stack(images)))


class Core(nn.Module):
    def __init__(self, backbone, head):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x):
        return self.head(self.backbone(x))


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        parts = Detector()
        self.core = Core(parts.backbone, parts.head)

    def forward(self, images):
        return self.core(torch.stack(images))


def test_what_was_changed_within_a_network_outside_of_it_is_not_lost_in_silence(tmp_path):
    model = Detector().eval()
    ps.prune(Core(model.backbone, model.head), torch.zeros(1, 1, 8, 8), ratio=0.5)
    with pytest.raises(
        InputError, match=r"part 'backbone': step 'prune' .* make that network a part of this one"
    ):
        ps.save(model, tmp_path / "net.safetensors")


def test_the_core_as_a_part_is_saved_with_the_whole(tmp_path):
    """The remedy of the error above."""
    model, example = Whole().eval(), torch.rand(2, 1, 8, 8)
    ps.prune(model.core, example[:1], ratio=0.5)
    ps.quantize(model.core, calibration=example, progress=False)
    ps.save(model, tmp_path / "net.safetensors")
    again = ps.load(tmp_path / "net.safetensors", model=Whole())
    assert torch.equal(model(list(example)), again(list(example)))
    ps.save(again, tmp_path / "again.safetensors")  # the loaded one is whole, too
    ps.save(copy.deepcopy(model), tmp_path / "copy.safetensors")
    with pytest.raises(InputError, match="save the whole network"):
        ps.save(model.core.backbone, tmp_path / "part.safetensors")
