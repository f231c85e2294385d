"""Masks in `.pint` files: told by the zeros of their weights, and by the few places where those do not tell."""

import hashlib
import json
import lzma
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pintsize as ps
from pintsize.deploy import export
from pintsize.deploy.pint import format as pint
from pintsize.deploy.pint import kept
from pintsize.deploy.pint.tensors import as_entries
from pintsize.errors import CorruptFile
from pintsize.pruning.weights.masks import masks_of, set_masks

FILTERS = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**20, "lc": 3, "lp": 0, "pb": 0}]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip


def sparse(weights: int | None, images, *, k: int | None = None, density: float = 0.3) -> nn.Module:
    model = network()
    ps.sparsify(model, density=density)
    if k is not None:
        ps.cluster(model, k=k)
    if weights is not None:
        ps.quantize(model, weights=weights, calibration=[images], progress=False)
    return model


def masks(model: nn.Module) -> dict[str, str]:
    """Name of each mask → the kind in which it is stored."""
    return {entry.name: entry.kind for entry in as_entries(model)[0] if entry.name.endswith("weight_mask")}


@pytest.mark.parametrize("k", [None, 5])
@pytest.mark.parametrize("weights", [8, 4, 2, 1, None])
def test_masks_come_back_with_every_kept_weight(weights, k, images, tmp_path):
    model = sparse(weights, images, k=k)
    export(model, tmp_path / "net.pint")
    again = ps.load(tmp_path / "net.pint", model=network())
    ours, theirs = masks_of(model), masks_of(again)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(again(images), model(images))


def test_nothing_is_stored_of_a_mask_that_the_zeros_tell(images):
    model = sparse(8, images)
    entries = {entry.name: entry for entry in as_entries(model)[0]}
    assert set(masks(model).values()) == {"kept"}
    told = [entry for entry in entries.values() if entry.kind == "kept"]
    rounded = sum(entry.extra["differences"] for entry in told)
    zeros = sum(int((entries[e.extra["of"]].symbols == 0).sum()) for e in told)
    removed = sum(int((~mask).sum()) for mask in masks_of(model).values())
    assert zeros == removed + rounded


def test_a_kept_weight_that_is_zero_trains_on_after_loading(images, tmp_path):
    model = network()
    mask = torch.ones(16, 3, 3, 3, dtype=torch.bool)
    mask[:8] = False
    set_masks(model, {"0.weight": mask})
    ps.sparsify(model, density=0.9)
    with torch.no_grad():
        model[0].weight[9, 1, 1, 1] = 0.0
    wanted = masks_of(model)
    wanted["0.weight"][9, 1, 1, 1] = True
    set_masks(model, wanted)
    entry = next(entry for entry in as_entries(model)[0] if entry.name == "0.weight_mask")
    assert (entry.kind, entry.extra["differences"], entry.plain.tolist()) == ("kept", 1, [9 * 27 + 9 + 4])
    export(model, tmp_path / "net.pint")
    again = ps.load(tmp_path / "net.pint", model=network()).train()
    again(images).sum().backward()
    assert float(again[0].weight.grad[9, 1, 1, 1]) != 0.0
    assert (again[0].weight.grad[:8] == 0).all()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=600))
@settings(max_examples=60, deadline=None)
def test_differences_and_zeros_give_the_mask_back(places):
    told, bits = (torch.tensor(one) for one in zip(*places, strict=True))
    mask = torch.from_numpy(np.packbits(bits.numpy()))
    gaps = kept.differences(mask, told)
    if gaps is not None:
        assert torch.equal(kept.packed(told, gaps), mask)
        assert len(gaps) == int((told != bits).sum())


def test_a_mask_that_has_little_to_do_with_the_zeros_is_stored_itself():
    torch.manual_seed(0)
    mask = torch.from_numpy(np.packbits(torch.rand(4096).numpy() < 0.5))
    assert kept.differences(mask, torch.rand(4096) < 0.5) is None
    assert kept.differences(mask[:-1], torch.rand(4096) < 0.5) is None


def test_bits_beyond_the_last_weight_are_not_lost():
    assert (
        kept.differences(torch.tensor([0b11111111], dtype=torch.uint8), torch.ones(5, dtype=torch.bool))
        is None
    )


def resealed(content: bytes) -> bytes:
    return content[:-32] + hashlib.sha256(content[:-32]).digest()


def changed(content: bytes, change) -> bytes:
    size = struct.unpack_from("<I", content, 12)[0]
    header = json.loads(lzma.decompress(content[16 : 16 + size], lzma.FORMAT_RAW, filters=FILTERS))
    for entry in header["tensors"]:
        if entry[3] == "kept":
            change(entry)
    packed = lzma.compress(json.dumps(header).encode(), lzma.FORMAT_RAW, filters=FILTERS)
    return resealed(content[:12] + struct.pack("<I", len(packed)) + packed + content[16 + size :])


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry[4].update(of="no such tensor"),
        lambda entry: entry[4].update(of=entry[0]),
        lambda entry: entry[4].update(differences=-1),
        lambda entry: entry[4].update(differences=2**60),
        lambda entry: entry[4].update(differences="many"),
        lambda entry: entry[4].update(differences=7),
        lambda entry: entry[4].clear(),
        lambda entry: entry[2].__setitem__(0, entry[2][0] + 1),
        lambda entry: entry.__setitem__(1, "float32"),
    ],
)
def test_a_mask_that_is_described_wrongly_is_refused(change, images, tmp_path):
    export(sparse(8, images), tmp_path / "net.pint")
    content = (tmp_path / "net.pint").read_bytes()
    (tmp_path / "net.pint").write_bytes(changed(content, change))
    with pytest.raises(CorruptFile):
        ps.load(tmp_path / "net.pint", model=network())


def test_gaps_that_leave_the_weights_are_refused():
    told = torch.ones(16, dtype=torch.bool)
    for gaps in ([16], [8, 8], [-1], [2**31 - 1, 2**31 - 1]):
        with pytest.raises(ValueError, match="where there are none"):
            kept.packed(told, torch.tensor(gaps, dtype=torch.int32))


def test_files_of_version_2_are_read(images, tmp_path, monkeypatch):
    model = sparse(8, images)
    export(model, tmp_path / "new.pint")
    with monkeypatch.context() as before:  # version 2 stored each mask itself
        before.setattr(kept, "owners", lambda name: [])
        before.setattr(pint, "FORMAT", 2)
        export(model, tmp_path / "old.pint")
    assert [(tmp_path / f"{name}.pint").read_bytes()[8] for name in ("new", "old")] == [3, 2]
    ours, theirs = (
        ps.load(tmp_path / f"{name}.pint", model=network()).state_dict() for name in ("new", "old")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (tmp_path / "new.pint").stat().st_size < (tmp_path / "old.pint").stat().st_size


@pytest.mark.parametrize("density", [1.0, 0.2, 0.1, 0.05])
@pytest.mark.parametrize("name", ["resnet-demo", "resnet20"])
def test_smaller_than_xz_of_the_onnx_file(name, density, tmp_path):
    torch.manual_seed(0)
    model = ps.models.create(name, num_classes=10).eval()
    images = torch.rand(4, 3, 32, 32)
    if density < 1:
        ps.sparsify(model, density=density, scope="local")
    ps.quantize(model, calibration=[images], progress=False)
    export(model, tmp_path / "net.pint")
    export(model, tmp_path / "net.onnx", example=images[:1])
    packed = lzma.compress((tmp_path / "net.onnx").read_bytes(), preset=9 | lzma.PRESET_EXTREME)
    assert (tmp_path / "net.pint").stat().st_size < len(packed)
