"""The budget search as a stage of a run: its candidates in `budget/`, the chosen one where a run keeps its networks."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..recipe.channels import PruneSection
from ..run.forms import chosen_forms
from ..run.stages.channels import cut
from ..run.stages.quantization import calibrated
from ..run.stages.stages import PRUNED, QUANTIZED, Stage, Stages, stage
from ..storage.atomic import write_bytes
from ..tables import judged
from .budget import BudgetSearch


@stage
class Budget(Stage):
    """`pruned.safetensors` and `quantized.safetensors`, as far as the chosen network has both."""

    name, place, section = "budget", 35, "budget"
    instead_of = frozenset({"recover", "quantize"})

    def rehearse(self, run: Stages, model: nn.Module) -> None:
        """Cut some channels and quantize on two images."""
        cut(run, model, PruneSection(ratio=0.3))
        if (section := run.recipe.quantize) is not None:
            few = {"calibration_images": len(run.example), "iterations": 1}
            calibrated(run, model, section.model_copy(update=few))

    def carry_out(self, run: Stages) -> None:
        """Search; the forms and results of the chosen network become those of the run."""
        finder = BudgetSearch(run)
        found = finder.run()
        row = finder.chosen
        run.forms = chosen_forms(prunes=row["prunes"], bits=set(row["bits"].values()))
        name = row["name"]
        sources = {PRUNED: f"budget/{name}-float.safetensors", QUANTIZED: f"budget/{name}.safetensors"}
        copies = {form.weights: sources[form.weights] for form in run.forms if form.weights in sources}

        def copy(_: str) -> dict[str, Any]:
            for target, source in copies.items():
                write_bytes(run.folder.path / target, (run.folder.path / source).read_bytes())
            return {}

        run.folder.stage("budget", inputs=[name, copies], outputs=list(copies), run=copy)
        history = row.get("history", [])
        last = judged(history[-1], "val_") if history else None
        run.results |= {
            "budget": found,
            "recover": {"history": history, **run.figures(last, "val_")},
            "quantize": run.figures(judged(row, "val_"), "val_"),
        }
        run.made_by |= {PRUNED: "recover", QUANTIZED: "quantize"}
