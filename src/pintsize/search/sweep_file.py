"""The sweep file: a recipe, the fields that vary, and how many trials run where.

    format: 1
    recipe: base.yaml                  # beside this file; or the recipe itself
    grid:                              # every combination
      prune.ratio: [0.3, 0.5]
      bits:                            # several fields that go together, each with a name
        w8a8: {quantize.weights: 8, quantize.activations: 8}
        w4a8: {quantize.weights: 4, quantize.activations: 8}
    search:                            # drawn `samples` times for each point of the grid
      recover.lr: {log_uniform: [0.001, 0.1]}
    samples: 8

What it draws is decided by `seed` alone, so the trials are known before the first one runs.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InputError
from ..recipe.channels import PruneSection
from ..recipe.options import with_options
from ..recipe.recipe import Recipe, merge
from ..recipe.yaml import read_yaml
from ..storage.digests import digest, in_order

_MOST_TRIALS = 10_000
_LONGEST_NAME = 80
_FARTHEST = 10**15
"""How far from 0 a range may reach: so far, a draw still tells whole numbers apart, and nothing overflows."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Range(_Section):
    """Where the values of a searched field come from: exactly one of the four."""

    uniform: tuple[float, float] | None = None
    """Between two numbers."""
    log_uniform: tuple[float, float] | None = None
    """Between two numbers above 0, their logarithms evenly spread."""
    integer: tuple[int, int] | None = None
    """A whole number between two, both included."""
    choice: list[Any] | None = Field(default=None, min_length=1)
    """One of these."""

    @model_validator(mode="after")
    def _one_kind(self) -> Range:
        given = [
            name
            for name in ("uniform", "log_uniform", "integer", "choice")
            if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise InputError("range", f"it says {' and '.join(given) or 'nothing'}",
                             "write exactly one of uniform, log_uniform, integer, choice")  # fmt: skip
        (kind,) = given
        if kind == "choice":
            return self
        low, high = getattr(self, kind)
        if max(abs(low), abs(high)) > _FARTHEST:
            raise InputError(kind, f"it reaches beyond ±{_FARTHEST:.0e}", "narrow it")
        if low > high:
            raise InputError(kind, f"it is from {low} down to {high}", "write the smaller number first")
        if kind == "log_uniform" and low <= 0:
            raise InputError(kind, f"it begins at {low}", "begin above 0, or write uniform")
        return self

    def at(self, share: float) -> Any:
        """The value at a share of the range, in [0, 1)."""
        if self.uniform is not None:
            low, high = self.uniform
            return low + share * (high - low)
        if self.log_uniform is not None:
            low, high = map(math.log, self.log_uniform)
            return math.exp(low + share * (high - low))
        if self.integer is not None:
            return self.integer[0] + int(share * (self.integer[1] - self.integer[0] + 1))
        assert self.choice is not None
        return self.choice[int(share * len(self.choice))]


class AshaSection(_Section):
    """Asynchronous successive halving: of the trials that come to a rung, the best 1/factor go on."""

    stage: Literal["train", "recover", "sparsify"] = "recover"
    """The training whose validation accuracy is compared."""
    grace: int = Field(default=1, ge=1)
    """Epochs before the first rung; the next ones are `factor` times as far each."""
    factor: int = Field(default=3, ge=2)
    """Of the trials at a rung, the best 1/factor go on."""


class Resources(_Section):
    """What a trial needs, and how trials are retried; heeded on Ray."""

    cpus: float = Field(default=1, gt=0)
    """Cores of a trial."""
    gpus: float = Field(default=0, ge=0)
    """GPUs of a trial; 0.25 puts four on one."""
    at_once: int | None = Field(default=None, ge=1)
    """Most trials at a time; by default as many as the machines hold."""
    retries: int = Field(default=3, ge=0)
    """How often a trial is started again whose worker or machine died."""


class SweepFile(_Section):
    """The content of a sweep file."""

    format: Literal[1] = 1
    """Version of this layout."""
    recipe: str | dict[str, Any]
    """A recipe, or the name of its file, relative to the sweep's."""
    grid: dict[str, list[Any] | dict[str, dict[str, Any]]] = {}
    """Recipe field → its values; or a name of your own → named groups of fields."""
    search: dict[str, Range] = {}
    """Recipe field → where its values come from."""
    samples: int = Field(default=1, ge=1)
    """Draws of `search` for each point of the grid."""
    asha: AshaSection | None = None
    """Stop trials early that fall behind; left out, all run to their end."""
    resources: Resources = Resources()
    """Of each trial."""
    seed: int = Field(default=0, ge=0)
    """Decides what `search` draws."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    name: str
    """Of its folder."""
    changes: dict[str, Any]
    """Recipe fields in which it differs from the base."""
    recipe: Recipe

    @property
    def key(self) -> str:
        """A digest of all that decides it."""
        dump = self.recipe.model_dump(mode="json")
        return digest({k: in_order(v) if isinstance(v, Mapping) else v for k, v in dump.items()})


def read_sweep(path: str | os.PathLike[str]) -> SweepFile:
    """Read a sweep file.

    Raises:
        InputError: it cannot be read, a key is unknown, or a value out of range.
    """
    document = read_yaml(path, kind="sweep file")
    try:
        if not isinstance(document, dict):
            raise InputError(str(path), "it is not a mapping", f"write {', '.join(SweepFile.model_fields)}")
        found = SweepFile.model_validate(document)
    except ValidationError as error:
        raise _as_input_error(error, str(path)) from None
    if not found.grid and not found.search:
        raise InputError(str(path), "nothing varies in it", "write grid: or search:")
    return found


def _as_input_error(error: ValidationError, path: str) -> InputError:
    """The first complaint of pydantic, in our three parts."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    what = f"{path}, {'.'.join(place)}"
    if first["type"] == "value_error" and isinstance(problem := first["ctx"]["error"], InputError):
        return InputError(f"{what}: {problem.what}", problem.cause, problem.remedy)
    sections: dict[str, tuple[type[_Section], int]] = {
        "search": (Range, 2), "asha": (AshaSection, 1), "resources": (Resources, 1),
    }  # fmt: skip
    section, depth = sections.get(place[0], (SweepFile, 0))
    if len(place) <= depth:  # the section itself is no mapping
        section, depth = SweepFile, 0
    field = section.model_fields.get(place[depth])
    if field is None:
        return InputError(
            what, "there is no such key", f"the keys here are {', '.join(section.model_fields)}"
        )
    return InputError(what, first["msg"][0].lower() + first["msg"][1:], f"it means: {field.description}")


def trials(
    sweep: SweepFile, *, folder: Path, names: Mapping[str, Any], options: Mapping[str, Any]
) -> list[Trial]:
    """All trials, checked, the last axis of the grid varying first.

    Args:
        sweep: the file.
        folder: where it lies.
        names: `model.name` and `data.name` that overrule the recipe's.
        options: flat options that overrule the recipe, see `pintsize.options`.

    Raises:
        InputError: a trial's recipe cannot be; it is named.
    """
    base = sweep.recipe if isinstance(sweep.recipe, dict) else read_yaml(folder / sweep.recipe)
    if not isinstance(base, Mapping):
        raise InputError(f"recipe {sweep.recipe}", "it is not a mapping of sections", "write a recipe")
    base = with_options(merge(base, names), options)
    count = math.prod(map(len, sweep.grid.values())) * (sweep.samples if sweep.search else 1)
    if count > _MOST_TRIALS:
        raise InputError(f"{count} trials", f"a sweep has at most {_MOST_TRIALS}", "let fewer fields vary")
    axes = [_axis(field, values) for field, values in sweep.grid.items()]
    found: dict[str, Trial] = {}
    for point in itertools.product(*axes):
        parts, together = (
            [label for label, _ in point],
            {k: v for _, changes in point for k, v in changes.items()},
        )
        for number, drawn in enumerate(_draws(sweep)):
            name = _name([*parts, f"s{number:03d}"] if sweep.search else parts)
            changes = {**together, **drawn}
            if name in found:
                name = f"{name[: _LONGEST_NAME - 9]}-{digest(changes)[:8]}"
            found[name] = Trial(name, changes, _recipe(base, changes, name))
    return list(found.values())


def _axis(field: str, values: list[Any] | dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The points of an axis: what names them, and what they change."""
    if not values:
        raise InputError(f"grid, {field}", "it has no values", "write one or more, or leave the field out")
    if isinstance(values, dict):
        return [(label, changes) for label, changes in values.items()]
    for number, value in enumerate(values):
        if values.index(value) < number:
            raise InputError(f"grid, {field}", f"it has {value!r} twice", "write each value once")
    short = field.rpartition(".")[2]
    return [(f"{short}-{value}", {field: value}) for value in values]


def _draws(sweep: SweepFile) -> list[dict[str, Any]]:
    """Evenly spread draws (a scrambled Halton sequence), a longer list beginning with the shorter."""
    if not sweep.search:
        return [{}]
    from scipy.stats import qmc

    shares = qmc.Halton(len(sweep.search), rng=sweep.seed).random(sweep.samples)
    return [
        {
            field: values.at(float(share))
            for (field, values), share in zip(sweep.search.items(), row, strict=True)
        }
        for row in shares
    ]


def _recipe(base: Mapping[str, Any], changes: Mapping[str, Any], name: str) -> Recipe:
    amounts = {f"prune.{amount}" for amount in PruneSection.AMOUNTS}
    cleared = dict.fromkeys(amounts - changes.keys()) if amounts & changes.keys() else {}
    recipe = Recipe.parse(merge(base, {**cleared, **changes}), source=f"trial {name}")
    for section in ("model", "data"):
        if getattr(recipe, section) is None:
            raise InputError(
                f"trial {name}", f"its recipe names no {section}", f"write {section}: in the recipe"
            )
    return recipe


def _name(parts: list[str]) -> str:
    """A folder's name, and nothing that leads elsewhere."""
    text = re.sub(r"[^\w.-]+", "-", "-".join(parts)).strip("-.")
    return text if 0 < len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 9]}-{digest(parts)[:8]}"
