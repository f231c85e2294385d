"""What a run starts from: the `model` and `data` sections."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from .section import Section, section
from .sides import sides


@section(
    "model", title="Model", about="Which network; may be left out where one is passed to `compress`.", place=10,
    renamed={"name": None, "weights": "model_weights"},
)  # fmt: skip
class ModelSection(Section):
    """Which network."""

    name: str
    """A name of `pintsize.models.list()`, `timm:NAME`, `torchvision:NAME`, `package.module:factory`, or a `.safetensors`
    or `.onnx` file."""
    num_classes: int | None = Field(default=None, ge=1, le=1_000_000)
    """Number of logits; by default the number of classes of the data. A factory that takes it gets what is given here."""
    in_channels: int | None = Field(default=None, ge=1, le=4096)
    """Colour channels of an image; by default those of the data. Given to a factory, too."""
    stem: Literal["auto", "imagenet", "small"] = "auto"
    """First layers: `small` for images up to 64×64, `imagenet` above; `auto` goes by the data."""
    pretrained: bool = False
    """Of `timm:` and `torchvision:`, start from the library's weights; the images are made as these expect."""
    weights: str | None = None
    """A file of weights to start from: `.safetensors`, `.pth` or `.th`."""


@section(
    "task", title="Task", about="What the network is for; by default that of the data, else classification.", place=9,
    renamed={"name": "task"},
)  # fmt: skip
class TaskSection(Section):
    """What the network is for; further keys are options of the task."""

    model_config = ConfigDict(extra="allow")

    name: str
    """A name of `pintsize.tasks.list()`, such as segmentation, or `package.module:task`."""


@section(
    "data", title="Data", about="Which images; may be left out where they are passed to `compress`.", place=11,
    renamed={"name": None},
)  # fmt: skip
class DataSection(Section):
    """Which images."""

    name: str
    """A name of `pintsize.data.list()`, or a format and a path, such as `imagefolder:PATH`, `coco:PATH`, or
    `images:PATH` for pictures without labels."""
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training images that is set aside to steer the run."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most so many images of each split."""
    image_size: str | int | None = None
    """Side to which images are resized, or `HxW`, also called `size`; by default they stay as they are, or are as the
    network's `pretrained` weights expect."""
    resize: Literal["letterbox", "stretch", "crop"] | None = None
    """How images without classes come to that size: whole, with a border, which is the default; stretched; of `images:`
    also the centre alone."""
    mean: tuple[float, ...] | None = None
    """Of each colour channel, as trained weights expect it; by default that of the training images, of `images:` 0."""
    std: tuple[float, ...] | None = None
    """Likewise the standard deviation; of `images:` 1."""
    scale: float | None = Field(default=None, gt=0)
    """Of `images:`, what pixels are divided by before mean and std: 255, which is the default, or 1."""
    channels: Literal["rgb", "bgr", "grey"] | None = None
    """Of `images:`, the order of the channels; by default rgb."""
    cutout: int = Field(default=0, ge=0)
    """Side in pixels of the square that augmentation erases in every training image; 0 for none."""

    @model_validator(mode="before")
    @classmethod
    def _size(cls, given: Any) -> Any:
        """The size goes by the name that it has in Python, too."""
        if not isinstance(given, dict) or "size" not in given or "image_size" in given:
            return given
        size = given["size"]
        told = "x".join(map(str, size)) if isinstance(size, list | tuple) else size
        return {key: value for key, value in given.items() if key != "size"} | {"image_size": told}

    @field_validator("image_size")
    @classmethod
    def _as_sides(cls, value: str | int | None) -> str | int | None:
        """One side is a number, so that a recipe says it as it always did."""
        found = sides(value)
        return value if found is None else found[0] if found[0] == found[1] else f"{found[0]}x{found[1]}"
