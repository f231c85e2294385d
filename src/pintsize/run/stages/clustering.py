"""The stage that gives weights few shared values."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...quant import cluster
from ...recipe.recipe import Recipe
from .stages import Stage, Stages, stage

_FILE = "clustered.safetensors"


@stage
class Cluster(Stage):
    """`clustered.safetensors`."""

    name, place, section = "cluster", 50, "cluster"

    def file(self, recipe: Recipe) -> str:
        return _FILE

    def forms(self, recipe: Recipe, kind: str) -> list[tuple[str, str]]:
        return [(f"{kind} clustered", "clustered")]

    def packs(self, recipe: Recipe) -> bool:
        return True

    def rehearse(self, run: Stages, model: nn.Module) -> None:
        cluster(model, **run.recipe.cluster.sharing())

    def make(self, run: Stages, key: str) -> dict[str, Any]:
        model, section = run.before(self), run.recipe.cluster
        found = cluster(model, **section.sharing())
        history = run.fit(model, self.name, key, section.training())
        return run.keep(model, _FILE, history=history, bytes=found.bytes)
