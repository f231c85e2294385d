"""The files under artifacts/ are networks that this version reads."""

from pathlib import Path

import pytest
import torch

import pintsize as ps

FILES = sorted((Path(__file__).parents[1] / "artifacts").rglob("*.pint"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_a_network_of_its_bits(path):
    model = ps.load(path)
    with torch.no_grad():
        logits = model(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()
    assert path.stat().st_size < 500_000
    bits = int(path.stem[1])
    inner = [layer.weight_quantizer.bits for _, layer in ps.quant.weight_layers(model)][1:-1]
    assert set(inner) == {bits}
