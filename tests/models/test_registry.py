from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pintsize import models
from pintsize.errors import CorruptFile, InputError, InputTypeError
from pintsize.storage import network_file as files
from pintsize.storage.record import origin


def test_names() -> None:
    assert models.list() == [
        "alexnet",
        "mobilenetv2",
        "resnet-demo",
        "resnet-demo-x2",
        "resnet-demo-x4",
        "resnet18",
        "resnet20",
        "resnet32",
        "resnet34",
        "resnet44",
        "resnet50",
        "resnet56",
        "shufflenetv2-x0.5",
        "shufflenetv2-x1.0",
        "shufflenetv2-x1.5",
        "shufflenetv2-x2.0",
        "vgg16",
        "vgg16-bn",
    ]


@pytest.mark.parametrize(
    ("name", "stem"),
    [("resnet18", "imagenet"), ("vgg16-bn", "imagenet"), ("resnet20", "small"), ("resnet-demo", "small")],
)
def test_origin_holds_all_options_and_the_stem_that_auto_meant(name: str, stem: str) -> None:
    with torch.device("meta"):
        model = models.create(name, num_classes=4, in_channels=1)
    assert origin(model) == {"name": name, "options": {"num_classes": 4, "in_channels": 1, "stem": stem}}


def test_a_saved_file_alone_gives_the_network_back(tmp_path: Path) -> None:
    model = models.create("resnet-demo", num_classes=3, in_channels=1).eval()
    files.save(model, tmp_path / "net.safetensors")
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(files.load(tmp_path / "net.safetensors")(images), model(images))


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"model 'resnet-18'.*'resnet18'"):
        models.create("resnet-18")
    with pytest.raises(InputError, match=r"stem 'smal'.*'small'"):
        models.create("resnet18", stem="smal")


@pytest.mark.parametrize("option", ["num_classes", "in_channels"])
def test_counts_are_checked(option: str) -> None:
    with pytest.raises(InputError, match=f"{option} 0: it is below 1"):
        models.create("resnet20", **{option: 0})
    for value in (2.0, "10", True):
        with pytest.raises(InputTypeError, match=f"{option} .*not an integer"):
            models.create("resnet20", **{option: value})


def test_weights_of_another_network_shape_name_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "ten.safetensors"
    save_file(models.create("resnet20", num_classes=10).state_dict(), path)
    with pytest.raises(InputError, match=r"ten.safetensors, tensor linear.*\(10,.*\(100,.*num_classes"):
        models.create("resnet20", num_classes=100, weights=path)
    with pytest.raises(InputError, match=r"tensor conv1.weight.*\(16, 3, 3, 3\).*\(16, 1, 3, 3\)"):
        models.create("resnet20", in_channels=1, weights=path)
    with pytest.raises(InputError, match=r"tensor layer1.3.*is missing"):
        models.create("resnet32", weights=path)


def test_weights_without_batch_counters_and_with_the_parallel_prefix(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = models.create("resnet-demo")
    state = source.state_dict()
    old = {f"module.{key}": state[key] for key in state if not key.endswith("num_batches_tracked")}
    torch.save({"state_dict": old, "epoch": 3}, tmp_path / "old.pth")
    loaded = models.create("resnet-demo", weights=tmp_path / "old.pth").state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_weights_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        models.create("resnet20", weights=tmp_path / "absent.pth")
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\x00\x00\x00")
    with pytest.raises(CorruptFile, match=r"torn\.safetensors"):
        models.create("resnet20", weights=tmp_path / "torn.safetensors")


def test_a_compressed_network_is_not_taken_for_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"format": 1, "model": None, "steps": [{"kind": "prune"}]}
    monkeypatch.setattr(files, "read_tensors", lambda path: ({}, document))
    with pytest.raises(InputError, match=r"compressed network.*pintsize\.load"):
        models.create("resnet20", weights=tmp_path / "pruned.safetensors")
