"""Every network takes the images it says it takes."""

import pytest
import torch

from pintsize import models
from pintsize.errors import InputError


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("stem", ["small", "imagenet"])
@pytest.mark.parametrize("name", models.list())
def test_logits_of_any_image_size(name: str, stem: str, in_channels: int) -> None:
    least = {("alexnet", "imagenet"): 63, ("vgg16", "imagenet"): 32, ("vgg16-bn", "imagenet"): 32}
    with torch.device("meta"):  # shapes alone, no arithmetic
        model = models.create(name, num_classes=7, in_channels=in_channels, stem=stem).eval()
        for size in (28, 32, 64, 97, 224):
            if size >= least.get((name, stem), 0):
                assert model(torch.empty(2, in_channels, size, size)).shape == (2, 7)


def test_images_need_not_be_square() -> None:
    assert models.create("resnet20").eval()(torch.zeros(1, 3, 28, 40)).shape == (1, 10)


@pytest.mark.parametrize("name", ["resnet20", "resnet-demo", "mobilenetv2", "shufflenetv2-x0.5", "resnet18"])
def test_a_training_step_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    model = models.create(name, in_channels=1, stem="small")
    logits = model(torch.randn(4, 1, 28, 28))
    assert logits.shape == (4, 10)
    logits.square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


def test_demo_takes_the_embedded_digits() -> None:
    assert models.create("resnet-demo", in_channels=1)(torch.randn(5, 1, 8, 8)).shape == (5, 10)


@pytest.mark.parametrize(
    ("name", "stem", "least"),
    [
        ("alexnet", "imagenet", 63),
        ("alexnet", "small", 7),
        ("vgg16", "imagenet", 32),
        ("vgg16-bn", "imagenet", 32),
    ],
)
def test_too_small_images_are_refused_with_the_least_size(name: str, stem: str, least: int) -> None:
    with torch.device("meta"):
        model = models.create(name, stem=stem).eval()
        assert model(torch.empty(1, 3, least, least)).shape == (1, 10)
        with pytest.raises(InputError, match=f"{least - 1}×{least}.*at least {least}×{least}.*stem='small'"):
            model(torch.empty(1, 3, least - 1, least))


def test_least_sizes_are_exact() -> None:
    with torch.device("meta"):
        for name, stem in (("alexnet", "imagenet"), ("alexnet", "small"), ("vgg16", "imagenet")):
            model = models.create(name, stem=stem).eval()
            model.features(torch.empty(1, 3, model.least_size, model.least_size))
            with pytest.raises(RuntimeError, match="too small"):
                model.features(torch.empty(1, 3, model.least_size - 1, model.least_size - 1))
