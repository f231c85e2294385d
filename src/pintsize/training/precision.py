"""Which arithmetic to train in."""

from __future__ import annotations

import torch

from pintsize.errors import InputError, unknown

PRECISIONS = ("auto", "bf16", "fp32")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices natively, not by emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # oneDNN's bf16 kernels need the instructions; ATEN_CPU_CAPABILITY may forbid what the CPU has.
    allowed = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return bool(allowed and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()))


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype to autocast to on `device`, None for plain fp32.

    Args:
        precision: `fp32`, `bf16`, or `auto` for bf16 exactly where it is fast.
        device: where the training runs.

    Raises:
        InputError: unknown precision, or bf16 on a GPU that has none.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError("precision 'bf16'", f"{device} has no bfloat16", "use precision='auto'")
    if precision == "bf16" or (precision == "auto" and has_fast_bf16(device)):
        return torch.bfloat16
    return None
