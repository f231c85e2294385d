"""Operations and their parameters, each as a small network: what the runtimes must compute as torch does.

A row is a name, what makes the module, and the side of its input; its channels are 8, its dimensions in the name's end.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 8
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_AVERAGE = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_MAXIMUM = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


class Function(nn.Module):
    def __init__(self, function: Callable[..., Tensor], *args, **options) -> None:
        super().__init__()
        self.function, self.args, self.options = function, args, options

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.args, **self.options)


Row = tuple[Callable[[], nn.Module], int, int]
"""What makes the module, its spatial dimensions, the side of its input."""


def rows() -> dict[str, Row]:
    """Every row by its name."""
    found: dict[str, Row] = {}
    for dims in (1, 2, 3):
        for name, options in _AVERAGES.items():
            for side in (9, 10) if "ceil" in name else (9,):
                if dims > 1 or "divisor" not in name:
                    found[f"average {name}, {dims}d of {side}"] = _row(_AVERAGE[dims], options, dims, side)
        for name, options in _MAXIMA.items():
            found[f"maximum {name}, {dims}d"] = _row(_MAXIMUM[dims], options, dims, 9)
        for name, (amounts, options) in _PADS.items():
            found[f"pad {name}, {dims}d"] = _row(Function, options, dims, 9, F.pad, amounts * dims)
        for name, options in _CONVOLUTIONS.items():
            found[f"convolution {name}, {dims}d"] = _row(CONVOLUTIONS[dims], options, dims, 9, 8, 8)
        for name, options in _TRANSPOSES.items():
            found[f"transposed {name}, {dims}d"] = _row(_TRANSPOSED[dims], options, dims, 5, 8, 8)
    for name, options in _RESIZES.items():
        found[f"resize {name}"] = _row(Function, options, 2, 12, F.interpolate)
    for size in (1, 3, 5, (None, 3)):
        found[f"adaptive average {size}"] = _row(nn.AdaptiveAvgPool2d, {}, 2, 12, size)
        found[f"adaptive maximum {size}"] = _row(nn.AdaptiveMaxPool2d, {}, 2, 12, size)
    return found


def _row(make: Callable[..., nn.Module], options: dict, dims: int, side: int, *args) -> Row:
    return (lambda: make(*args, **options)), dims, side


def network(row: Row, *, relu: bool) -> nn.Module:
    """A convolution (→ ReLU) → the operation → a convolution, in eval mode: what is around it in a network."""
    make, dims, _ = row
    torch.manual_seed(0)
    convolution = CONVOLUTIONS[dims]
    first = convolution(3, CHANNELS, 1)
    nn.init.constant_(first.bias, 0.2)  # a range that is not symmetric
    return nn.Sequential(
        first, nn.ReLU() if relu else nn.Identity(), make(), convolution(CHANNELS, 3, 1), nn.Flatten()
    ).eval()


class Together(nn.Module):
    """Many networks of one input: one export serves them all."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(network(x) for network in self.networks)


_AVERAGES = {
    "even": {"kernel_size": 2},
    "padded": {"kernel_size": 3, "stride": 2, "padding": 1},
    "padding not counted": {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False},
    "even ceil": {"kernel_size": 2, "ceil_mode": True},
    "padded ceil": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    "padding not counted ceil": {
        "kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True, "count_include_pad": False,
    },
    "wide ceil": {"kernel_size": 4, "stride": 3, "padding": 2, "ceil_mode": True},
    "divisor": {"kernel_size": 2, "divisor_override": 3},
    "padded ceil divisor": {
        "kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "divisor_override": 5,
    },
}  # fmt: skip
_MAXIMA = {
    "even": {"kernel_size": 2},
    "padded": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2},
    "padded ceil": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
}
_PADS: dict[str, tuple[tuple[int, int], dict]] = {
    "zero": ((2, 1), {}),
    "value": ((0, 2), {"value": 0.7}),
    "reflect": ((2, 1), {"mode": "reflect"}),
    "replicate": ((2, 1), {"mode": "replicate"}),
    "circular": ((2, 1), {"mode": "circular"}),
    "crop": ((-1, -2), {}),
    "crop and grow": ((-1, 2), {"value": -0.3}),
    "crop circular": ((-1, 2), {"mode": "circular"}),
}
_CONVOLUTIONS = {
    "even": {"kernel_size": 4, "stride": 3, "padding": 1},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "grouped and dilated": {"kernel_size": 3, "groups": 2, "dilation": 2, "stride": 2},
    "depthwise": {"kernel_size": 3, "groups": 8, "padding": 1, "bias": False},
    "same": {"kernel_size": 5, "padding": "same"},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "replicate": {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
}
_TRANSPOSES = {
    "even": {"kernel_size": 2, "stride": 2},
    "dilated": {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2},
    "padded output": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "grouped": {"kernel_size": 3, "stride": 2, "groups": 2, "dilation": 2, "output_padding": 1},
}
_SIZES = {
    "twice": {"scale_factor": 2},
    "1.7": {"scale_factor": 1.7},
    "smaller": {"size": 5},
    "17": {"size": 17},
}
_MODES = {
    "nearest": {},
    "nearest-exact": {"mode": "nearest-exact"},
    "area": {"mode": "area"},
    **{
        f"{mode}{', corners' if corners else ''}{', antialias' if smooth else ''}": {
            "mode": mode, "align_corners": corners, "antialias": smooth,
        }
        for mode in ("bilinear", "bicubic")
        for corners in (False, True)
        for smooth in (False, True)
    },
}  # fmt: skip
_RESIZES = {
    f"{mode} {size}": {**options, **sizes}
    for mode, options in _MODES.items()
    for size, sizes in _SIZES.items()
}
