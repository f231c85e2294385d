"""Weights before training have the spread that the papers ask for."""

import math

import pytest
import torch
from torch import nn

from pintsize import models


def std(tensor: torch.Tensor) -> float:
    return tensor.std().item()


def test_convolutions_keep_the_variance_of_the_chosen_fan() -> None:
    torch.manual_seed(0)
    conv = models.create("resnet18").layer2[0].conv1  # 64 → 128 channels, 3×3
    assert std(conv.weight) == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.02)
    conv = models.create("resnet20").layer2[0].conv1  # 16 → 32
    assert std(conv.weight) == pytest.approx(math.sqrt(2 / (16 * 9)), rel=0.05)


def test_classifier_of_mobilenetv2() -> None:
    linear = models.create("mobilenetv2").classifier[1]
    assert std(linear.weight) == pytest.approx(0.01, rel=0.05)
    assert not linear.bias.any()


def test_vgg_biases_start_at_zero() -> None:
    model = models.create("vgg16", stem="small")
    assert not any(module.bias.any() for module in model.modules() if isinstance(module, nn.Conv2d))


def test_the_seed_decides_the_weights() -> None:
    def weights() -> torch.Tensor:
        torch.manual_seed(5)
        return nn.utils.parameters_to_vector(models.create("resnet-demo").parameters())

    assert torch.equal(weights(), weights())
