"""Networks of timm and torchvision by name; where these are not installed, only that this is said."""

import importlib.util
import json
import sys
import warnings

import onnx
import pytest
import torch
from safetensors.torch import save_file

import pintsize as ps
from pintsize import models
from pintsize.deploy.options import known_input_shape
from pintsize.errors import InputError, MissingExtra, OperationError
from pintsize.models import outside
from pintsize.recipe.inputs import ModelSection
from pintsize.run import networks
from pintsize.storage.record import origin
from torchvision_here import imported

SMALL = "timm:mobilenetv3_small_050"


@pytest.fixture
def timm():
    return _here("timm")


@pytest.fixture
def torchvision():
    return _here("torchvision")


def _quiet():
    return warnings.catch_warnings(action="ignore")


def _here(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    with _quiet():
        return imported(name)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_library_is_named_with_its_extra(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'pintsize\[{library}\]'"):
        models.create(f"{library}:resnet18")
    with pytest.raises(MissingExtra):
        models.list(f"{library}:*")


def test_a_library_that_does_not_load_is_told_with_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OperationError, match=r"installed but cannot be imported.*nms.*pip install"):
        models.create("torchvision:resnet18")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("mobilenet_v2", "mobilenetv2"), ("vgg16_bn", "vgg16-bn"), ("shufflenet_v2_x1_0", "shufflenetv2-x1.0")],
)
def test_torchvisions_spelling_of_ours_is_ours(theirs, ours):
    with torch.device("meta"):
        assert origin(models.create(theirs))["name"] == ours
    assert networks.build(ModelSection(name=theirs), image_shape=(3, 32, 32), num_classes=4) is not None
    assert theirs not in models.list()


def test_ours_have_no_weights_to_fetch():
    with pytest.raises(InputError, match=r"without weights.*torchvision:mobilenet_v2"):
        models.create("mobilenetv2", pretrained=True)


def test_lists_by_pattern(timm):
    assert models.list("resnet1*") == ["resnet18"]
    found = models.list("timm:mobilenetv3_small_0*")
    assert found == ["timm:mobilenetv3_small_050", "timm:mobilenetv3_small_075"]


def test_names_that_do_not_exist(timm):
    for name, told in (
        ("timm:mobilenetv3_smal_050", "timm:mobilenetv3_small_050"),
        ("timm:hf-hub:someone/network", "lists them"),
        ("timm:resnet18.no_such_weights", "timm:resnet18"),
    ):
        with pytest.raises(InputError, match=told):
            models.create(name)
    with pytest.raises(InputError, match="no other first layers"):
        models.create(SMALL, stem="small")


def test_classes_and_channels_of_timm(timm):
    net = models.create(SMALL, num_classes=5, in_channels=1).eval()
    assert net(torch.rand(2, 1, 64, 64)).shape == (2, 5)
    assert origin(net) == {"name": SMALL, "options": {"in_channels": 1, "num_classes": 5}}
    assert known_input_shape(net) == (1, 1, 224, 224)
    assert models.preprocessing_of(net) is None  # random weights expect nothing


def test_weights_of_a_file_with_timms_layout(timm, tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("mobilenetv3_small_050")
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    net = models.create(SMALL, pretrained=True, weights=tmp_path / "weights.safetensors").eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(net(images), source.eval()(images))
    expected = models.preprocessing_of(net)
    assert expected.size == (224, 224)
    assert expected.mean == (0.485, 0.456, 0.406)
    assert expected.interpolation == "bicubic"
    assert expected.crop == 0.875
    fewer = models.create(
        SMALL, num_classes=5, in_channels=1, pretrained=True, weights=tmp_path / "weights.safetensors"
    )
    own, theirs = fewer.state_dict(), source.state_dict()
    assert torch.equal(own["blocks.1.0.conv_pw.weight"], theirs["blocks.1.0.conv_pw.weight"])
    assert torch.allclose(own["conv_stem.weight"], theirs["conv_stem.weight"].sum(1, keepdim=True))
    assert own["classifier.weight"].shape[0] == 5
    assert models.preprocessing_of(fewer).mean == pytest.approx((sum((0.485, 0.456, 0.406)) / 3,))
    with pytest.raises(InputError, match="do not fit timm:mobilenetv3_small_075"):
        models.create("timm:mobilenetv3_small_075", pretrained=True, weights=tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="no such file"):
        models.create(SMALL, pretrained=True, weights=tmp_path / "absent.safetensors")


def test_weights_that_cannot_be_fetched(timm, monkeypatch, tmp_path):
    monkeypatch.setattr(timm.models._builder, "load_pretrained", _no_network)
    with pytest.raises(
        OperationError, match=r"cannot be fetched.*huggingface.co/timm/mobilenetv3.*weights=FILE"
    ):
        models.create(SMALL, pretrained=True)
    with pytest.raises(InputError, match="the library has no weights of it"):
        models.create("timm:mobilenetv3_large_075", pretrained=True)


def _no_network(*args, **options):
    raise ConnectionError("Name or service not known")


def test_a_pruned_network_of_timm_comes_back_from_its_file_alone(timm, tmp_path):
    torch.manual_seed(0)
    save_file(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "weights.safetensors")
    net = models.create(SMALL, pretrained=True, weights=tmp_path / "weights.safetensors").eval()
    images = torch.rand(2, 3, 64, 64)
    ps.prune(net, images, macs=0.7)
    ps.save(net, tmp_path / "pruned.safetensors")
    again = ps.load(tmp_path / "pruned.safetensors")
    assert torch.equal(again(images), net(images))
    assert models.preprocessing_of(again) == models.preprocessing_of(net)
    export = ps.export(net, tmp_path / "net.onnx", example=images)
    told = {entry.key: entry.value for entry in onnx.load(export.path).metadata_props}
    assert json.loads(told["pintsize.normalization"])["mean"] == [0.485, 0.456, 0.406]


def test_a_file_fetches_nothing(monkeypatch):
    with pytest.raises(TypeError):
        outside.rebuilt(SMALL, in_channels=3, weights="/etc/passwd")


def test_weights_in_torchs_cache_are_torchvisions(torchvision, tmp_path, monkeypatch):
    from torchvision.models import ResNet18_Weights, resnet18

    torch.manual_seed(0)
    source = resnet18()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(source.state_dict(), folder / ResNet18_Weights.DEFAULT.url.rpartition("/")[2])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    net = models.create("torchvision:resnet18", pretrained=True).eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(net(images), source.eval()(images))
    expected = models.preprocessing_of(net)
    assert (expected.size, expected.crop) == ((224, 224), 224 / 256)
    fewer = models.create("torchvision:resnet18", pretrained=True, num_classes=7, in_channels=1)
    assert torch.equal(fewer.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    assert torch.allclose(fewer.conv1.weight, source.conv1.weight.sum(1, keepdim=True))
    assert fewer.eval()(torch.rand(2, 1, 64, 64)).shape == (2, 7)
    assert not networks.starts_trained(ModelSection(name="torchvision:resnet18", pretrained=True), 7)
    assert networks.starts_trained(ModelSection(name="torchvision:resnet18", pretrained=True), 1000)


def test_torchvision_without_network(torchvision, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    with pytest.raises(OperationError, match=r"cannot be fetched.*download.pytorch.org.*checkpoints"):
        models.create("torchvision:resnet18", pretrained=True)


def test_detectors_of_torchvision_take_three_channels(torchvision):
    with pytest.raises(InputError, match="three channels alone"):
        models.create("torchvision:ssdlite320_mobilenet_v3_large", in_channels=1)


def test_heads_for_training_alone_are_left_out(torchvision, tmp_path):
    whole = torchvision.models.googlenet(init_weights=False, aux_logits=True)
    save_file(
        {key: value.clone() for key, value in whole.state_dict().items()}, tmp_path / "googlenet.safetensors"
    )
    net = models.create(
        "torchvision:googlenet", pretrained=True, weights=tmp_path / "googlenet.safetensors"
    ).eval()
    assert net.aux1 is None
    assert torch.equal(net.conv1.conv.weight, whole.conv1.conv.weight)
