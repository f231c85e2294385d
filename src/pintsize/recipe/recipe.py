"""The recipe: everything that decides a run, in one versioned YAML file.

A key that is not known is refused with the nearest one that is. `options.py` gives each field the name that
`compress` and the command line use for it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, Field, ValidationError, field_serializer, field_validator, model_validator

from ..errors import InputError, InputTypeError
from .attention import AttentionOptions
from .budget import BudgetSection
from .quantization import QuantizeSection
from .section import Section
from .sparse import RoundsOptions, RulesOptions, SparsifyOptions
from .yaml import read_yaml as read_yaml  # noqa: PLC0414 (its place was here)

FORMAT: Final = 1


class ModelSection(Section):
    """Which network."""

    name: str
    """A name of `pintsize.models.list()`, or `package.module:factory`."""
    num_classes: int | None = Field(default=None, ge=1, le=1_000_000)
    """Number of logits; by default the number of classes of the data."""
    in_channels: int | None = Field(default=None, ge=1, le=4096)
    """Colour channels of an image; by default those of the data."""
    stem: Literal["auto", "imagenet", "small"] = "auto"
    """First layers: `small` for images up to 64×64, `imagenet` above; `auto` goes by the data."""
    weights: str | None = None
    """A file of weights to start from: `.safetensors`, `.pth` or `.th`."""


class DataSection(Section):
    """Which images."""

    name: str
    """A name of `pintsize.data.list()`, or `imagefolder:PATH`."""
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training images that is set aside to steer the run."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most so many images of each split."""
    image_size: int | None = Field(default=None, ge=1, le=8192)
    """Side to which images are resized; by default they stay as they are."""
    mean: tuple[float, ...] | None = None
    """Of each colour channel, as trained weights expect it; by default that of the training images."""
    std: tuple[float, ...] | None = None
    """Likewise the standard deviation."""
    cutout: int = Field(default=0, ge=0)
    """Side in pixels of the square that augmentation erases in every training image; 0 for none."""


class TrainSection(Section):
    """How the dense network is trained first; 0 epochs take it as it is."""

    epochs: int = Field(default=10, ge=0)
    """Passes over the training images."""
    lr: float = Field(default=0.1, gt=0)
    """Largest learning rate."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Which optimiser."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD; the first beta of Adam and AdamW."""
    nesterov: bool = False
    """Nesterov's form of momentum, for SGD."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Not applied to norms and biases."""
    batch_size: int = Field(default=128, ge=1)
    """Images per step."""
    schedule: Literal["cosine", "step", "one-cycle", "constant"] = "cosine"
    """How the learning rate falls."""
    warmup_epochs: float = Field(default=0, ge=0)
    """Epochs over which the learning rate rises to `lr`."""
    step_size: int = Field(default=20, ge=1)
    """Epochs between two falls of the `step` schedule."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """Factor of a fall of the `step` schedule."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Probability that is spread over the wrong classes."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of a moving average of the weights, which is then the result."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of training; `auto` takes bf16 where the hardware has it."""
    augment: bool = True
    """Random crops and flips of the training images."""
    keep: Literal["best", "last"] = "last"
    """Weights to end with: of the last epoch, or of the best one on the validation images."""
    regularize: bool = True
    """Off: no dropout, fixed statistics in batch norms, no weight decay, no augmentation: to overfit."""


class PruneSection(Section):
    """Which channels are removed: exactly one of the four amounts."""

    ratio: float | None = Field(default=None, ge=0, lt=1)
    """Fraction of the prunable channels to remove."""
    params: float | None = Field(default=None, gt=0, le=1)
    """Fraction of the network's parameters to keep."""
    macs: float | None = Field(default=None, gt=0, le=1)
    """Fraction of the network's multiply-accumulates to keep."""
    bytes: float | None = Field(default=None, gt=0, le=1)
    """Fraction of the network's bytes to keep."""
    importance: str = "l2"
    """Criterion that ranks channels; the smallest go first."""
    scope: str = "global"
    """`global` ranks the channels of all layers together, `isomorphic` those of layers that are connected
    alike, `local` removes the same share of each layer."""
    round_to: int | Literal["auto"] = "auto"
    """Keep a multiple of so many channels in each layer; `auto` takes what the runtimes like."""
    min_channels: int = Field(default=1, ge=1)
    """Least channels of a layer."""
    ignore: tuple[str, ...] = ()
    """Modules that keep all their channels: names or shell patterns (`layer4.*`)."""

    AMOUNTS: ClassVar[tuple[str, ...]] = ("ratio", "params", "macs", "bytes")

    @model_validator(mode="after")
    def _one_amount(self) -> PruneSection:
        given = [name for name in self.AMOUNTS if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"exactly one of {', '.join(self.AMOUNTS)} says how much to prune, {found}")
        return self


class RecoverSection(TrainSection):
    """How the pruned network is trained on; the dense one is its teacher."""

    epochs: int = Field(default=10, ge=0)
    """Passes over the training images."""
    lr: float = Field(default=0.02, gt=0)
    """Largest learning rate."""
    distill: bool = True
    """Learn from the dense network's outputs as well as from the labels."""
    distill_weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the dense network's outputs in the loss; a large one holds the pruned network at its teacher's level."""
    temperature: float = Field(default=4.0, gt=0)
    """Softens both outputs before they are compared."""


class QatSection(RecoverSection):
    """How the quantized network is trained on; the dense one is its teacher."""

    lr: float = Field(default=0.01, gt=0)
    """Largest learning rate."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Not applied to norms, biases and step sizes."""
    distill_weight: float = Field(default=0.9, ge=0, le=1)
    """Share of the dense network's outputs in the loss."""
    freeze_at: float = Field(default=0.75, ge=0, le=1)
    """Share of the epochs after which batch-norm statistics and ranges stay as they are."""
    damping: float = Field(default=1e-5, ge=0)
    """Weight of the penalty on weights below 4 bits that swing between two levels."""


class ExportSection(Section):
    """The deployed file, and how it is timed."""

    opset: int | None = Field(default=None, ge=19)
    """ONNX operator set; by default the one pintsize is tested with."""
    backend: Literal["onnxruntime", "openvino"] = "onnxruntime"
    """Runtime that the file is verified and measured in, and whose latencies a budget is about."""
    threads: int = Field(default=2, ge=1, le=1024)
    """Threads of the runtime in every measurement."""
    licence: str | None = None
    """Of the weights, kept in the deployed files."""


class Recipe(Section):
    """All that decides a run besides the images and the starting weights."""

    format: Literal[1] = FORMAT
    """Version of this layout."""
    model: ModelSection | None = None
    """Which network; may be left out where one is passed to `compress`."""
    data: DataSection | None = None
    """Which images; may be left out where they are passed to `compress`."""
    train: TrainSection = TrainSection()
    """Training of the dense network."""
    prune: PruneSection | None = None
    """Channel pruning; left out, all channels stay."""
    attention: AttentionOptions | None = None
    """Pruning by attention, instead of `prune`; with bits of its own also instead of `quantize`."""
    sparsify: SparsifyOptions | None = None
    """Masks on single weights, instead."""
    rules: RulesOptions | None = None
    """The stages of a rule file, or of the rules that a sensitivity scan gives, instead."""
    rounds: RoundsOptions | None = None
    """Rounds with ratios per block, instead."""
    budget: BudgetSection | None = None
    """What may be lost or spent, instead: channels and bits are searched for."""
    recover: RecoverSection | None = None
    """Training after pruning; left out, its defaults apply."""
    quantize: QuantizeSection | None = QuantizeSection()
    """Quantization; `null` leaves the network in floating point."""
    qat: QatSection | None = None
    """Training of the quantized network; left out, it is calibrated alone. `method: lsq` learns its step sizes."""
    export: ExportSection = ExportSection()
    """The deployed file."""
    seed: int = Field(default=0, ge=0)
    """Decides the validation split, starting weights, order and augmentation."""

    @field_validator("model", "data", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        """`model: resnet18` is short for `model: {name: resnet18}`."""
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _one_seed(cls, document: Any) -> Any:
        """A run has one seed: another one in `attention` is refused, the same one again is left out."""
        attention = document.get("attention") if isinstance(document, Mapping) else None
        if isinstance(attention, AttentionOptions):
            given = asdict(attention)
            attention = given if given["seed"] != AttentionOptions.seed else None
        if not isinstance(attention, Mapping) or "seed" not in attention:
            return document
        own, seed = attention["seed"], document.get("seed", cls.model_fields["seed"].default)
        if own != seed:
            raise InputError(
                f"attention.seed={own!r}",
                f"a run has one seed, and the recipe's is {seed!r}",
                f"leave it out, or set the recipe's seed: seed: {own!r} beside attention",
            )
        rest = {key: value for key, value in attention.items() if key != "seed"}
        return {**document, "attention": rest}

    @field_serializer("attention", mode="wrap")
    def _without_seed(self, attention: AttentionOptions | None, handler: Any) -> Any:
        written = handler(attention)
        if isinstance(written, dict):
            del written["seed"]  # the recipe's holds
        return written

    @model_validator(mode="after")
    def _one_way_to_prune(self) -> Recipe:
        ways = [name for name in WAYS if getattr(self, name) is not None]
        if self.recover is not None and not ways:
            raise ValueError("recover follows prune, and nothing is pruned")
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} are two ways to prune: write one of them")
        if self.recover is not None and not self.recover.regularize and (self.rules or self.rounds):
            raise ValueError("regularize: false is for train; after each cut the network is trained as usual")
        if self.qat is not None and (self.quantize is None or self.budget is not None):
            raise ValueError("qat trains the network that quantize gives, and there is none")
        if self.budget is not None and self.quantize is not None:
            by_pattern = isinstance(self.quantize.weights, dict) or isinstance(
                self.quantize.activations, dict
            )
            if by_pattern or self.quantize.edges != QuantizeSection().edges:
                raise ValueError(
                    "budget chooses the bits of each layer: give quantize one number, and no edges"
                )
        if self.attention is None:
            return self
        if self.attention.weights is not None and (self.quantize is not None or self.recover is not None):
            raise ValueError(
                "attention with weights and activations trains a quantized network: write quantize: null, and no recover"
            )
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from a YAML file.

        Raises:
            InputError: there is no such file, it is no YAML, a key is unknown or a value out of range.
        """
        return cls.parse(read_yaml(path), source=str(path))

    @classmethod
    def parse(cls, document: Any, *, source: str = "recipe") -> Recipe:
        """The recipe of a plain dictionary; `source` names it in errors."""
        if not isinstance(document, dict):
            raise InputError(
                source, "it is not a mapping of sections", f"write sections: {', '.join(cls.model_fields)}"
            )
        if document.get("format", FORMAT) != FORMAT:
            raise InputError(
                f"{source}, format {document['format']!r}",
                f"this version of pintsize reads format {FORMAT}",
                "use the version that the recipe was written for, or bring its keys up to date",
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise _as_input_error(error, source) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recipe, every default spelt out, as YAML."""
        import yaml

        from ..storage.atomic import write_text

        write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` written over it, key by key: `{"prune.ratio": 0.5}` reaches into a section."""
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for dotted, value in changes.items():
        section, dot, key = dotted.partition(".")
        if not dot:
            merged[section] = value
            continue
        inner = merged.get(section)
        if isinstance(inner, str) and section in {"model", "data"}:
            inner = {"name": inner}
        if inner is not None and not isinstance(inner, dict):
            raise InputTypeError(
                f"recipe key {section}", f"it is {inner!r}, not a section", "write a mapping"
            )
        merged[section] = {**(inner or {}), key: value}
    return merged


def _as_input_error(error: ValidationError, source: str) -> InputError:
    """The first complaint of pydantic, in our three parts."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    where = ".".join(place)
    if first["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        choices = _keys_beside(place)
        near = difflib.get_close_matches(place[-1], choices, n=2, cutoff=0.5)
        remedy = f"did you mean {' or '.join(near)}?" if near else f"the keys here are {', '.join(choices)}"
        return InputError(f"{source}, {where}", "there is no such key", remedy)
    if first["type"] == "missing":
        return InputError(f"{source}, {where}", "it is missing", f"write {place[-1]}: …")
    if first["type"] == "value_error":
        if isinstance(problem := first["ctx"]["error"], InputError):
            what = f"{source}, {where}: {problem.what}" if where else f"{source}, {problem.what}"
            return InputError(what, problem.cause, problem.remedy)
        return InputError(
            f"{source}, {where}" if where else source,
            str(problem),
            "change the recipe or option",
        )
    message = first["msg"][0].lower() + first["msg"][1:]
    what = f"{source}, {where} = {first['input']!r}" if where else source
    return InputError(what, message, f"it means: {_describe(place)}")


def _keys_beside(place: list[str]) -> list[str]:
    """Valid keys of the section that holds `place`."""
    if (options := _options_class(place)) is not None:
        return [
            field.name for field in fields(options) if options is not AttentionOptions or field.name != "seed"
        ]
    section = _section_class(place[0]) if len(place) > 1 else Recipe
    return list((section or Recipe).model_fields)


def _describe(place: list[str]) -> str:
    if (options := _options_class(place)) is not None:
        helps = {field.name: field.metadata.get("help", "") for field in fields(options)}
        return str(helps.get(place[1], ""))
    section = _section_class(place[0]) if len(place) > 1 else Recipe
    field = (section or Recipe).model_fields.get(place[1] if len(place) > 1 else place[0])
    return (field.description or "") if field else "docs/guides/recipes.md"


def _options_class(place: list[str]) -> Any:
    """The dataclass that holds the key at `place`, None if it is in a section of another kind."""
    return WAYS[place[0]] if len(place) > 1 and place[0] in WAYS and place[0] not in SECTIONS else None


def _section_class(name: str) -> type[BaseModel] | None:
    return SECTIONS.get(name)


WAYS: dict[str, Any] = {
    "prune": PruneSection,
    "attention": AttentionOptions,
    "sparsify": SparsifyOptions,
    "rules": RulesOptions,
    "rounds": RoundsOptions,
    "budget": BudgetSection,
}
"""The ways to prune; a recipe takes one."""

SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelSection,
    "data": DataSection,
    "train": TrainSection,
    "prune": PruneSection,
    "budget": BudgetSection,
    "recover": RecoverSection,
    "quantize": QuantizeSection,
    "qat": QatSection,
    "export": ExportSection,
}
"""The sections by name, in the order of the stages."""
