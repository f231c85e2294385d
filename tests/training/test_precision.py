from __future__ import annotations

import pytest
import torch

from pintsize.errors import InputError
from pintsize.training import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capability", "avx512_bf16", "amx", "fast"),
    [
        ("AVX512", True, False, True),
        ("AVX512", False, True, True),
        ("AVX512", False, False, False),
        ("AVX2", True, True, False),
        ("DEFAULT", False, False, False),
    ],
)
def test_auto_takes_bf16_exactly_where_the_cpu_has_the_instructions(
    monkeypatch, capability, avx512_bf16, amx, fast
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert precision.has_fast_bf16(CPU) is fast
    assert precision.autocast_dtype("auto", CPU) == (torch.bfloat16 if fast else None)
    assert precision.autocast_dtype("bf16", CPU) is torch.bfloat16
    assert precision.autocast_dtype("fp32", CPU) is None


def test_unknown_precision():
    with pytest.raises(InputError, match="did you mean 'bf16'"):
        precision.autocast_dtype("bf1", CPU)
