"""The files under artifacts/ are networks that this version reads."""

import fnmatch
from pathlib import Path

import pytest
import torch

import pintsize as ps

OTHER_BITS = {"w2a8-pruned44-mixed": {"layer1.*": 3}}
FILES = sorted((Path(__file__).parents[2] / "artifacts").rglob("*.pint"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_a_network_of_its_bits(path):
    model = ps.load(path)
    with torch.no_grad():
        logits = model(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()
    assert path.stat().st_size < 500_000
    bits = int(path.stem[1])
    own = OTHER_BITS.get(path.stem, {})
    for name, layer in list(ps.quant.weight_layers(model))[1:-1]:
        pattern = next((pattern for pattern in own if fnmatch.fnmatchcase(name, pattern)), None)
        assert layer.weight_quantizer.bits == (bits if pattern is None else own[pattern]), name
