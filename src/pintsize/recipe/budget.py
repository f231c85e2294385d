"""The `budget` section of a recipe: what may be lost or spent, and how long the search for the network may take."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from .quantization import QuantizeSection
from .section import Chosen, Section, section

LIMITS = {"latency": "max_latency", "bytes": "max_bytes", "macs": "max_macs"}
"""What a network costs, and the option that limits it."""


@section(
    "budget", title="Budget, instead of an amount to prune", place=35, way=True,
    about="What may be lost or spent, instead: channels and bits are searched for.",
)  # fmt: skip
class BudgetSection(Section):
    """A budget instead of ratios: exactly one of `max_drop`, `max_latency`, `max_bytes` and `max_macs`."""

    max_drop: float | None = Field(default=None, ge=0)
    """Percentage points that may be lost on the validation images; the cheapest network is wanted."""
    margin: float = Field(default=1.0, ge=0)
    """Standard errors of the measured drop by which it has to be below `max_drop`: the validation images are a sample."""
    minimize: Literal["latency", "bytes", "macs"] = "latency"
    """With `max_drop`: of what the network shall take least."""
    max_latency: float | None = Field(default=None, gt=0)
    """Milliseconds that the file may take for one image; the most accurate network is wanted."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Likewise, bytes of the file."""
    max_macs: int | None = Field(default=None, ge=1)
    """Likewise, multiply-accumulates per image."""
    time_limit: float | None = Field(default=20.0, gt=0)
    """Minutes that the search may take, after the dense network is trained; null for as long as it needs."""
    probes: int = Field(default=4, ge=0)
    """Networks that are tried with a short recovery."""
    probe_epochs: int | None = Field(default=None, ge=1)
    """Epochs of a short recovery; by default a fifth of those of `recover`."""
    confirmations: int = Field(default=3, ge=1)
    """Networks that are tried with the full recovery."""
    cut_by: str = "taylor"
    """Criterion that says which channels of a layer go first."""
    drop_blocks: bool = True
    """Whether whole residual blocks may go."""

    @model_validator(mode="after")
    def _one_budget(self) -> BudgetSection:
        names = ["max_drop", *LIMITS.values()]
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"exactly one of {', '.join(names)} is the budget, {found}")
        if self.max_drop is None:
            cost = next(cost for cost, name in LIMITS.items() if name == given[0])
            if "minimize" in self.model_fields_set and self.minimize != cost:
                raise ValueError(f"{given[0]} limits {cost}, and minimize is {self.minimize}: leave it out")
            object.__setattr__(self, "minimize", cost)
        return self

    @property
    def limit(self) -> float | None:
        """What the network may cost, in the unit of `minimize`; None if a drop is the budget."""
        found: float | None = getattr(self, LIMITS[self.minimize])
        return found

    def check_with(self, recipe: Chosen) -> None:
        """The search chooses bits by itself."""
        chosen = recipe.quantize
        if chosen is None:
            return
        by_pattern = isinstance(chosen.weights, dict) or isinstance(chosen.activations, dict)
        if by_pattern or chosen.edges != QuantizeSection().edges:
            raise ValueError("budget chooses the bits of each layer: give quantize one number, and no edges")
