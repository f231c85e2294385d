"""Carry out the stages of a rule file on a network: masks for single weights, physical cuts for whole filters."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from ...errors import InputError
from ...graph import ChannelGroup, channel_groups
from ...storage import record as _record
from ..channels.plan import PruneStep
from ..channels.removal import prune
from ..channels.statistics import Statistics
from ..weights.masks import MaskStep, set_masks, weight_name
from ..weights.sparsity import batches_for, find_masks
from .language import ELEMENTS, Rule, Rules


class RuleStages:
    """The stages of `rules` for `model` as it is now: sparsities are fractions of this.

    Args:
        model: pruned in place by `run`.
        rules: a rule file.
        example: an input batch, where whole filters are pruned.
        data: for criteria that need it.
        seed: of criteria and of the order of images.

    Raises:
        InputError: a rule matches nothing, or asks for what the network's structure does not allow.
    """

    def __init__(
        self, model: nn.Module, rules: Rules, *, example: Any = None, data: Any = None, seed: int = 0
    ) -> None:
        self.model, self.rules, self.example, self.data, self.seed = model, rules, example, data, seed
        self.matched = {name: rule for name, rule in rules.match(model).items() if rule is not None}
        self._filters = {
            n: r for n, r in self.matched.items() if r.importance != ELEMENTS and max(r.sparsities)
        }
        self._sizes: dict[str, int] = {}
        if self._filters:
            if example is None:
                raise InputError(
                    rules.source,
                    "it removes whole filters, and no example was given",
                    "pass example= or data=",
                )
            groups = channel_groups(model, example)
            self._sizes = {group.name: group.size for group in groups}
            self._check(groups)

    def run(self, stage: int) -> None:
        """Bring the network to the sparsities of stage `stage`, from 0; stages may be left out."""
        self._cut(stage)
        names = [n for n, r in self.matched.items() if r.importance == ELEMENTS and r.sparsity(stage) > 0]
        if not names:
            return
        _record.check_order(self.model, MaskStep)
        masks = {}
        for name in names:
            density = 1 - self.matched[name].sparsity(stage)
            found, _ = find_masks(self.model, [name], Statistics(self.model), density=density)
            masks.update(found)
        set_masks(self.model, masks)
        _record.append(self.model, MaskStep([name.rpartition(".")[0] for name in names], scope="local"))

    def _cut(self, stage: int) -> None:
        wanted: dict[str, dict[str, float]] = {}
        for group in channel_groups(self.model, self.example) if self._filters else ():
            rule = self._rule(group)
            if rule is None or group.name not in self._sizes:
                continue
            sparsity = min(self._filters[name].sparsity(stage) if name in self._filters else 0.0
                           for name in _weights(group))  # fmt: skip
            whole = self._sizes[group.name]
            more = math.floor(sparsity * whole + 1e-9) - (whole - group.size)
            if more > 0:
                wanted.setdefault(rule.criterion, {})[group.layers[0]] = more / group.size
        if wanted:
            _record.check_order(self.model, PruneStep)
        data = None if self.data is None else batches_for(self.data, None, 128, self.seed)
        for criterion, ratios in wanted.items():
            prune(
                self.model, self.example, ratios=ratios, scope="local", importance=criterion, data=data, seed=self.seed
            )  # fmt: skip

    def _rule(self, group: ChannelGroup) -> Rule | None:
        """The rule of a group: of the first of its layers, where all of them have one."""
        return next((self._filters[name] for name in _weights(group) if name in self._filters), None)

    def _check(self, groups: list[ChannelGroup]) -> None:
        """Raise if a rule cannot be carried out: layers whose channels are added share their fate."""
        free = set()
        for group in groups:
            names = _weights(group)
            free.update(names)
            ruled = [name for name in names if name in self._filters]
            if not ruled:
                continue
            rule = self._filters[ruled[0]]
            bare = [
                name
                for name in names
                if name not in self.matched or self.matched[name].importance == ELEMENTS
            ]
            other = [name for name in ruled if self._filters[name].importance != rule.importance]
            if bare or other:
                cause = (
                    f"its channels are also those of {bare[0]}, for which no rule removes filters"
                    if bare
                    else f"its channels are also those of {other[0]}, which has another criterion"
                )
                raise InputError(
                    f"{self.rules.source}, line {rule.line}: {ruled[0]}",
                    cause,
                    f"give {', '.join(names)} rules with one criterion (the smallest sparsity counts), or none",
                )
        for name, rule in self._filters.items():
            if name not in free:
                raise InputError(
                    f"{self.rules.source}, line {rule.line}: {name}",
                    "its filters cannot be removed: they are outputs of the network, or their number is in its code",
                    "give it the criterion abs, an earlier rule with sparsity 0, or none",
                )


def _weights(group: ChannelGroup) -> list[str]:
    return [weight_name(layer) for layer in group.layers]
