"""Decibels and widths, worked out by hand."""

import pytest
import torch
from torch import nn

from pintsize.errors import InputError
from pintsize.quant.grid.quantizer import FakeQuantize
from pintsize.viz import quantization, style


def test_sqnr_by_hand():
    before = torch.tensor([3.0, 4.0])  # signal 25
    assert quantization.sqnr_db(before, torch.tensor([3.5, 4.0])) == pytest.approx(20)  # noise 0.25
    assert quantization.sqnr_db(before, before) == float("inf")
    assert quantization.sqnr_db(torch.zeros(2), torch.ones(2)) == float("-inf")


def test_error_bars():
    pairs = {"a": (torch.tensor([3.0, 4.0]), torch.tensor([3.5, 4.0])), "b": (torch.ones(2), torch.ones(2))}
    figure = quantization.quantization_error(pairs, bits={"a": 4})
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [pytest.approx(20), 0]
    assert [text.get_text() for text in axes.texts] == ["20.0 · 4 bit", "exact"]
    assert "worst a at 20.0 dB" in style.description(figure)


def test_error_and_bits_of_a_network():
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[0].add_module("weight_quantizer", FakeQuantize(4, signed=True, channels=2, axis=0))
    model[0].weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.5], [0.0, 1.0, 1.0, 1.0]])  # scale 1: 4.5 → 4
    figure = quantization.quantization_error(model)
    signal, noise = 1 + 4 + 9 + 4.5**2 + 3, 0.25
    assert figure.axes[0].patches[0].get_width() == pytest.approx(
        10 * torch.tensor(signal / noise).log10().item()
    )
    widths = quantization.bits_per_layer(model)
    assert [text.get_text() for text in widths.axes[0].texts] == ["4", "32"]
    assert f"{(4 * 8 + 32 * 4) / 12:.2f} on average" in style.description(widths)


def test_nothing_quantized():
    with pytest.raises(InputError):
        quantization.quantization_error(nn.Linear(2, 2))
    with pytest.raises(InputError):
        quantization.bits_per_layer({})
