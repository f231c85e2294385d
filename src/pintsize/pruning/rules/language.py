"""The rule file: which parameters are pruned, how far at each stage, and by which criterion.

One rule a line, `#` begins a comment:

    regex,sparsity[;sparsity…],importance

The regex is matched in full against the names of the weights of convolutions and linear layers; the first
rule that matches a weight is its rule. The sparsities are the removed fractions of the original after each stage
(the last one holds from then on). `abs` removes single weights by magnitude; `l1norm`, `l2norm` and every
registered criterion for channels remove whole filters, physically. A weight without a rule is left alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ...errors import InputError, unknown
from ...storage.atomic import write_text
from ..channels import importance as criteria
from ..weights.masks import maskable, weight_name

ELEMENTS = "abs"
_LARGEST = 2**20
"""Characters of a rule file."""
_NORMS = {"l1norm": "l1", "l2norm": "l2"}


@dataclass(frozen=True)
class Rule:
    """One line."""

    pattern: str
    """Regular expression."""
    sparsities: tuple[float, ...]
    """Removed fraction after each stage, in [0, 1), not falling."""
    importance: str
    """`abs`, `l1norm`, `l2norm`, or a criterion for channels."""
    line: int = 0
    """In the file, from 1."""

    def sparsity(self, stage: int) -> float:
        """After stage `stage`, from 0."""
        return self.sparsities[min(stage, len(self.sparsities) - 1)]

    @property
    def criterion(self) -> str:
        """Name of the criterion for channels."""
        return _NORMS.get(self.importance, self.importance)

    def __str__(self) -> str:
        return f"{self.pattern},{';'.join(f'{s:g}' for s in self.sparsities)},{self.importance}"


@dataclass(frozen=True)
class Rules:
    """A rule file."""

    rules: tuple[Rule, ...]
    source: str = "rules"
    """Names it in errors."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Rules:
        """Read a rule file.

        Raises:
            InputError: it cannot be read, or a line is no rule; the line is named.
        """
        try:
            with Path(path).open(encoding="utf-8") as file:
                text = file.read(_LARGEST + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"rule file {path}", f"it cannot be read ({error})", "check the path") from error
        return cls.parse(text, source=str(path))

    @classmethod
    def parse(cls, text: str, *, source: str = "rules") -> Rules:
        """Read the text of a rule file."""
        if len(text) > _LARGEST:
            raise InputError(
                source, f"it is longer than {_LARGEST} characters", "check that it is a rule file"
            )
        found = []
        for number, line in enumerate(text.splitlines(), 1):
            content = _without_comment(line).strip()
            if content:
                found.append(_rule(content, number, f"{source}, line {number}"))
        if not found:
            raise InputError(source, "it holds no rule", "write lines such as  features\\..*,0.3;0.5,l2norm")
        return cls(tuple(found), source)

    @property
    def stages(self) -> int:
        """The longest list of sparsities."""
        return max(len(rule.sparsities) for rule in self.rules)

    def text(self) -> str:
        """As a file."""
        return "".join(f"{rule}\n" for rule in self.rules)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the rule file; one that is there, perhaps edited, is replaced only if `overwrite`.

        Raises:
            InputError: there is a file already.
        """
        if Path(path).exists() and not overwrite:
            raise InputError(
                f"rule file {path}", "it exists", "choose another name, or pass overwrite=True to replace it"
            )
        write_text(path, self.text())

    def match(self, model: nn.Module) -> dict[str, Rule | None]:
        """Each weight of a convolution or linear layer and its rule; None for those that are left alone.

        Raises:
            InputError: a rule matches none of them.
        """
        weights = [weight_name(path) for path in maskable(model)]
        compiled = [(rule, re.compile(rule.pattern)) for rule in self.rules]
        for rule, regex in compiled:
            if not any(regex.fullmatch(name) for name in weights):
                others = [name for name, _ in model.named_parameters() if regex.fullmatch(name)]
                cause = (
                    f"it matches only {', '.join(others[:3])}: no weight of a convolution or linear layer"
                    if others
                    else "it matches no parameter"
                )
                raise InputError(
                    f"{self.source}, line {rule.line}: {rule.pattern}",
                    cause,
                    f"names are matched in full, e.g. {weights[0] if weights else 'conv.weight'}",
                )
        return {
            name: next((rule for rule, regex in compiled if regex.fullmatch(name)), None) for name in weights
        }

    def dry_run(self, model: nn.Module) -> str:
        """What would be done, as text: each weight with its rule and sparsities, and what is left alone."""
        from ...tables import text_table

        matched = self.match(model)
        rows = [
            (
                name,
                "left alone" if rule is None else f"line {rule.line}",
                "" if rule is None else "; ".join(f"{s:g}" for s in rule.sparsities),
                "" if rule is None else rule.importance,
            )
            for name, rule in matched.items()
        ]
        others = [name for name, _ in model.named_parameters() if name not in matched]
        unused = [rule for rule in self.rules if rule not in matched.values()]
        lines = [text_table(("weight", "rule", "removed at each stage", "by"), rows)]
        lines += [
            f"line {rule.line} ({rule.pattern}): earlier rules take all that it matches" for rule in unused
        ]
        if others:
            lines.append(f"never pruned by themselves: {len(others)} biases, norms and others")
        return "\n".join(lines)


def from_ratios(ratios: Iterable[tuple[str, float, str]], *, stages: int = 1, source: str = "rules") -> Rules:
    """Rules for single weights: (parameter, sparsity, importance), reached in `stages` equal parts."""
    if not isinstance(stages, int) or stages < 1:
        raise InputError(f"stages={stages!r}", "it is not a number of stages", "pass 1 or more")
    made = [
        Rule(
            re.escape(name),
            tuple(round(ratio * (k + 1) / stages, 6) for k in range(stages)),
            importance,
            line,
        )
        for line, (name, ratio, importance) in enumerate(ratios, 1)
    ]
    return Rules(tuple(made), source)


def _without_comment(line: str) -> str:
    """A `#` begins a comment unless it is escaped, as in a regex that means one."""
    return re.split(r"(?<!\\)#", line, maxsplit=1)[0]


def _rule(content: str, number: int, where: str) -> Rule:
    parts = [part.strip() for part in content.rsplit(",", 2)]  # the regex may hold commas: a{1,2}
    if len(parts) != 3 or not all(parts):
        raise InputError(
            f"{where}: {content}", "it is no rule", "write regex,sparsity[;sparsity…],importance"
        )
    pattern, listed, importance = parts
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"{where}: {pattern}", f"it is no regular expression ({error})", "escape special characters"
        ) from error
    if importance != ELEMENTS and importance not in _NORMS and importance not in criteria.names():
        bad = unknown("importance", importance, [ELEMENTS, *_NORMS, *criteria.names()])
        raise InputError(f"{where}: {bad.what}", bad.cause, bad.remedy)
    return Rule(pattern, _sparsities(listed, where), importance, number)


def _sparsities(listed: str, where: str) -> tuple[float, ...]:
    values: list[float] = []
    for text in listed.split(";"):
        try:
            value = float(text)
        except ValueError:
            raise InputError(
                f"{where}: sparsity {text.strip()!r}", "it is no number", "write e.g. 0.3;0.5"
            ) from None
        if not 0 <= value < 1:
            cause = "the layer would vanish" if value == 1 else "a sparsity lies in [0, 1)"
            raise InputError(
                f"{where}: sparsity {text.strip()}", cause, "write the removed fraction, e.g. 0.3"
            )
        if values and value < values[-1]:
            raise InputError(
                f"{where}: sparsities {listed}",
                "they fall: what is removed does not come back",
                "write what is removed of the original after each stage, e.g. 0.3;0.5",
            )
        values.append(value)
    return tuple(values)
