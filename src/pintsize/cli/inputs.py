"""The options that say which network and which images are meant: one declaration for all verbs."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from . import loading

if TYPE_CHECKING:
    from torch import nn

    from ..data import Data

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m",
        help="A name (see `pintsize models`), timm:NAME, torchvision:NAME, package.module:factory, or a file (.onnx, …).",
    ),
]  # fmt: skip
OptionalModel = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A name, package.module:factory, or a file; else what is already named."),
]  # fmt: skip
Plain = Annotated[
    str | None, typer.Option("--model", "-m", help="The plain network, for a file that does not name its own.")
]  # fmt: skip
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        help="A data set (see `pintsize datasets`), such as imagefolder:PATH, coco:PATH, or images:PATH without labels.",
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task", help="What the network is for: classification, segmentation, …, or package.module:task."
    ),
]
ModelWeights = Annotated[
    str | None, typer.Option(help="Weights to load into the model: .safetensors, .pth or .th.")
]
Pretrained = Annotated[
    bool,
    typer.Option("--pretrained", help="Start from the library's weights of a timm: or torchvision: model."),
]
NumClasses = Annotated[int | None, typer.Option(help="Number of logits of a named model.")]
InChannels = Annotated[int | None, typer.Option(help="Colour channels of an image, for a named model.")]
Stem = Annotated[str, typer.Option(help="First layers of a named model: auto, imagenet or small.")]
ImageSize = Annotated[
    str | None, typer.Option(metavar="H[xW]", help="Side of the images in pixels, or height x width.")
]
Resize = Annotated[
    str | None,
    typer.Option(
        help="How images without classes come to that size: letterbox, stretch, or crop for images:."
    ),
]
Mean = Annotated[
    str | None, typer.Option(metavar="M[,M,M]", help="Mean of each channel that the network expects.")
]
Std = Annotated[
    str | None, typer.Option(metavar="S[,S,S]", help="Standard deviation of each channel, likewise.")
]
Scale = Annotated[float | None, typer.Option(help="For images:, what pixels are divided by first: 255 or 1.")]
Channels = Annotated[str | None, typer.Option(help="For images:, rgb, bgr or grey.")]
ValFraction = Annotated[float, typer.Option(help="Share of the training images set aside for validation.")]
Limit = Annotated[int | None, typer.Option(help="Use at most so many images of each split.")]
Seed = Annotated[int, typer.Option(help="Decides the validation split and everything random.")]
Threads = Annotated[int, typer.Option(help="Threads of the runtime.")]
Backend = Annotated[str | None, typer.Option(help="Runtime; by default the one that fits the file.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="File to write.")]
Checkpoint = Annotated[Path | None, typer.Option(help="File to resume from, written after each epoch.")]
LogDir = Annotated[Path | None, typer.Option(help="Folder for TensorBoard events.")]
Folder = Annotated[
    Path | None,
    typer.Option(help="Keeps what is done, file by file; a run that was stopped goes on from it."),
]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Show the log; -vv more of it, in the file, too.")
]


@dataclass
class Inputs:
    """A network and images as a command line names them; both are loaded when they are asked for."""

    model: Model
    data: DataName | None
    task: TaskName = None
    pretrained: Pretrained = False
    model_weights: ModelWeights = None
    num_classes: NumClasses = None
    in_channels: InChannels = None
    stem: Stem = "auto"
    val_fraction: ValFraction = 0.1
    limit: Limit = None
    image_size: ImageSize = None
    resize: Resize = None
    mean: Mean = None
    std: Std = None
    scale: Scale = None
    channels: Channels = None
    seed: Seed = 0

    @classmethod
    def parameters(cls, data: str) -> list[inspect.Parameter]:
        """What the command line shows; `data` is needed or optional."""
        kinds = {"data": DataName if data == "needed" else DataName | None}
        defaults = {} if data == "needed" else {"data": None}
        return [
            one.replace(
                kind=inspect.Parameter.KEYWORD_ONLY,
                annotation=kinds.get(name, one.annotation),
                default=defaults.get(name, one.default),
            )
            for name, one in inspect.signature(cls, eval_str=True).parameters.items()
        ]

    @cached_property
    def images(self) -> Data:
        """The data set; of one without labels the network, as it is now, says what is right."""
        from ..tasks.imitation import Imitation, imitate

        task = loading.task_of_data(self._loaded)
        if not isinstance(task, Imitation):
            return self._loaded
        taught: Data = imitate(self._loaded, self.network, task)
        return taught

    def taught_by(self, teacher: nn.Module | None) -> Data:
        """The data set; of one without labels a teacher says what is right.

        Raises:
            InputError: it has no labels, and there is no teacher.
        """
        from ..tasks.imitation import Imitation, imitate

        task = loading.task_of_data(self._loaded)
        if not isinstance(task, Imitation):
            return self._loaded
        if teacher is None:
            raise InputError(f"training on {self.data}", "it has no labels, and nobody says what is right",
                             "pass --teacher, a .safetensors file of the dense network")  # fmt: skip
        taught: Data = imitate(self._loaded, teacher, task)
        return taught

    @cached_property
    def _loaded(self) -> Data:
        assert self.data is not None
        images = loading.load_data(
            self.data, val_fraction=self.val_fraction, seed=self.seed, limit=self.limit, image_size=self.image_size,
            resize=self.resize, mean=loading.numbers("mean", self.mean), std=loading.numbers("std", self.std),
            scale=self.scale, channels=self.channels, like=loading.expected(self.model, pretrained=self.pretrained),
        )  # fmt: skip
        return images if self.task is None else images.for_task(loading.load_task(self.task))

    @property
    def images_if_any(self) -> Data | None:
        """The data set, or None where none is named."""
        return None if self.data is None else self.images

    @cached_property
    def network(self) -> nn.Module:
        """The network, made to fit the images where its options leave it open."""
        import torch

        images = None if self.data is None else self._loaded  # before the seed is set: loading may use it up
        torch.manual_seed(self.seed)
        options: dict[str, Any] = {
            "weights": self.model_weights, "pretrained": self.pretrained, "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            "stem": self.stem,
        }  # fmt: skip
        return loading.load_model(self.model, images, image_size=self.image_size, **options)

    @property
    def example(self) -> Any:
        """Two images for the network."""
        from ..run.networks import example_for

        return example_for(self.network, self.images_if_any, self.image_size)
