"""The ImageNet forms have torchvision's tensors: names, order and shapes."""

import hashlib

import pytest
import torch
from torch import nn

from pintsize import models

# Parameters as torchvision publishes them; tensors and fingerprint of names and shapes in order are
# those of torchvision 0.29.2 itself.
PUBLISHED = {
    "alexnet": (61_100_840, 16, "23c3b8d4a3e86dc8"),
    "vgg16": (138_357_544, 32, "8a41c838cadbc3e0"),
    "vgg16-bn": (138_365_992, 97, "ae5d7d87f5e61a76"),
    "resnet18": (11_689_512, 122, "66b04efc1dfd4b80"),
    "resnet34": (21_797_672, 218, "4aa3e2bbbdc5e2fd"),
    "resnet50": (25_557_032, 320, "614cd53ddf849669"),
    "mobilenetv2": (3_504_872, 314, "a18c560d82f6d01d"),
    "shufflenetv2-x0.5": (1_366_792, 338, "54a515f5b9e5104f"),
    "shufflenetv2-x1.0": (2_278_604, 338, "cb82a4e6fc1db15e"),
    "shufflenetv2-x1.5": (3_503_624, 338, "231697331a27fbff"),
    "shufflenetv2-x2.0": (7_393_996, 338, "0c76297abaa12b0d"),
}

SPOT = {
    "alexnet": {"features.0.weight": (64, 3, 11, 11), "classifier.6.weight": (1000, 4096)},
    "vgg16": {"features.28.weight": (512, 512, 3, 3), "classifier.0.weight": (4096, 25088)},
    "vgg16-bn": {"features.41.running_mean": (512,), "classifier.6.bias": (1000,)},
    "resnet18": {"conv1.weight": (64, 3, 7, 7), "layer2.0.downsample.0.weight": (128, 64, 1, 1)},
    "resnet34": {"layer3.5.bn2.weight": (256,), "fc.weight": (1000, 512)},
    "resnet50": {"layer1.0.downsample.1.bias": (256,), "layer4.2.conv3.weight": (2048, 512, 1, 1)},
    "mobilenetv2": {
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "classifier.1.weight": (1000, 1280),
    },
    "shufflenetv2-x1.0": {
        "conv1.0.weight": (24, 3, 3, 3),
        "stage2.0.branch1.2.weight": (58, 24, 1, 1),
        "stage4.3.branch2.3.weight": (232, 1, 3, 3),
        "conv5.1.running_var": (1024,),
    },
}


def bare(name: str, **options: object) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return models.create(name, **options)


def fingerprint(model: nn.Module) -> str:
    lines = "\n".join(f"{name} {list(tensor.shape)}" for name, tensor in model.state_dict().items())
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_names_and_shapes_are_torchvisions(name: str) -> None:
    model = bare(name, num_classes=1000)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert (parameters, len(model.state_dict()), fingerprint(model)) == PUBLISHED[name]


@pytest.mark.parametrize("name", SPOT)
def test_known_tensors(name: str) -> None:
    state = bare(name, num_classes=1000).state_dict()
    assert {key: tuple(state[key].shape) for key in SPOT[name]} == SPOT[name]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("alexnet", 57_023_306),
        ("vgg16", 14_982_474),
        ("vgg16-bn", 14_990_922),
        ("resnet18", 11_173_962),
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("mobilenetv2", 2_236_682),
        ("shufflenetv2-x1.0", 1_263_854),
        ("resnet-demo", 175_258),
        ("resnet-demo-x2", 696_618),
        ("resnet-demo-x4", 2_777_674),
    ],
)
def test_parameters_of_the_small_forms_at_ten_classes(name: str, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in bare(name, stem="small").parameters()) == parameters


@pytest.mark.parametrize("name", ["mobilenetv2", "shufflenetv2-x0.5"])
def test_small_and_imagenet_forms_of_the_light_networks_share_weights(name: str) -> None:
    assert fingerprint(bare(name, stem="small")) == fingerprint(bare(name, stem="imagenet"))


def test_resnet_small_form_differs_only_in_the_first_convolution() -> None:
    small, large = (bare("resnet18", stem=stem).state_dict() for stem in ("small", "imagenet"))
    assert small.keys() == large.keys()
    assert [key for key in small if small[key].shape != large[key].shape] == ["conv1.weight"]
