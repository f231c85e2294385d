"""What the weights of a network expect of its images: a note on the network, which copies and compressed forms keep."""

from __future__ import annotations

import dataclasses

from torch import nn

from .wrapped import plain

NOTE = "_pintsize_preprocessing"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How the images were made that a network was trained on."""

    size: tuple[int, int]
    """Height and width."""
    mean: tuple[float, ...]
    """Per channel, of the [0, 1] images."""
    std: tuple[float, ...]
    """Per channel, of the [0, 1] images."""
    crop: float = 1.0
    """Side of the centre that is cut out, as a share of the shorter side of the scaled picture; 1: nothing more than
    what does not fit is lost."""
    interpolation: str = "bilinear"
    """Of scaling: nearest, bilinear or bicubic."""
    num_classes: int | None = None
    """That the weights tell apart."""

    def for_channels(self, channels: int) -> Preprocessing:
        """For images of so many channels: where these differ, with the average of mean and std for each."""
        if channels == len(self.mean):
            return self
        mean, std = ((sum(values) / len(values),) * channels for values in (self.mean, self.std))
        return dataclasses.replace(self, mean=mean, std=std)


def note(model: nn.Module, expected: Preprocessing | None) -> None:
    """Write on a network what it expects."""
    if expected is not None:
        plain(model).__dict__[NOTE] = expected


def preprocessing_of(model: nn.Module) -> Preprocessing | None:
    """What is noted on a network; None where nothing is."""
    found: Preprocessing | None = plain(model).__dict__.get(NOTE)
    return found
