"""The budget search as stages of a run: its candidates in `budget/`, the chosen one where a run keeps its networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..run.forms import chosen_forms
from ..storage.atomic import write_bytes
from .budget import BudgetSearch

if TYPE_CHECKING:
    from ..run.stages.stages import Stages


def search(stages: Stages) -> None:
    """Search, and put the chosen network into `pruned.safetensors` and `quantized.safetensors`.

    Its forms and results become those of the run.
    """
    finder = BudgetSearch(stages)
    found = finder.run()
    row = finder.chosen
    stages.forms = chosen_forms(prunes=row["prunes"], bits=set(row["bits"].values()))
    name = row["name"]
    sources = {
        "pruned.safetensors": f"budget/{name}-float.safetensors",
        "quantized.safetensors": f"budget/{name}.safetensors",
    }
    copies = {form.weights: sources[form.weights] for form in stages.forms if form.weights in sources}

    def copy(_: str) -> dict[str, Any]:
        for target, source in copies.items():
            write_bytes(stages.folder.path / target, (stages.folder.path / source).read_bytes())
        return {}

    stages.folder.stage("budget", inputs=[name, copies], outputs=list(copies), run=copy)
    stages.results["budget"] = found
    history = row.get("history", [])
    stages.results["recover"] = {
        "history": history,
        "val_accuracy": history[-1]["val_accuracy"] if history else None,
    }
    stages.results["quantize"] = {"val_accuracy": row["val_accuracy"]}
