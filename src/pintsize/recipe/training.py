"""How networks are trained: the `train` and `recover` sections."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .section import Chosen, Section, section


@section(
    "train", title="Training", about="Training of the dense network.", place=20, default=True, required=True
)
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
    patience: int | None = Field(default=None, ge=1)
    """End after so many epochs without a better one on the validation images."""
    regularize: bool = True
    """Off: no dropout, fixed statistics in batch norms, no weight decay, no augmentation: to overfit."""


@section(
    "recover", title="Recovery after pruning", about="Training after pruning; left out, its defaults apply.", place=40,
    own=("distill", "distill_weight", "temperature"),
)  # fmt: skip
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

    def check_with(self, recipe: Chosen) -> None:
        """It trains what is pruned."""
        if type(self) is RecoverSection and not recipe.ways():
            raise ValueError("recover follows prune, and nothing is pruned")
