"""Embeddings: vectors [B, D] that lie near each other where classes are the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .metric import Metric
from .task import TASKS, Task


@TASKS.register("embedding")
class Embedding(Task):
    """Supervised contrastive loss; recall@1: whether the nearest other image is of the same class.

    The loss is that of Khosla et al., Supervised Contrastive Learning, 2004.11362, equation 2.

    Args:
        temperature: of the similarities.
    """

    name = "embedding"

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__(metric=RecallAtOne())
        self._temperature = temperature

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the images that have another of their class in the batch."""
        vectors = F.normalize(outputs.float(), dim=1)
        others = ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
        same = (targets[:, None] == targets[None]) & others
        logits = (vectors @ vectors.T / self._temperature).masked_fill(~others, -torch.inf)
        likely = (logits - logits.logsumexp(1, keepdim=True)).masked_fill(~same, 0.0)
        paired = same.sum(1)
        return -(likely.sum(1) / paired.clamp_min(1)).sum() / (paired > 0).sum().clamp_min(1)

    def distill(self, outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """1 − cosine of student and teacher."""
        return (1 - F.cosine_similarity(outputs.float(), taught.float())).mean()


class RecallAtOne(Metric):
    """Share of images whose nearest other, by cosine, is of their class, in percent."""

    name, unit = "recall@1", "%"

    def records(self, outputs: Any, targets: Any) -> list[tuple[Tensor, int]]:
        """Each image's vector and class."""
        vectors = F.normalize(torch.as_tensor(outputs).float().cpu(), dim=1)
        return list(zip(vectors, torch.as_tensor(targets).tolist(), strict=True))

    def value(self, records: Sequence[Any]) -> float:
        """Of all images."""
        return 100 * float(self._hits(records).mean())

    def standard_error(self, records: Sequence[Any]) -> float:
        """σ / √n over the images that ask; drawing some twice would give them a twin to find."""
        return 100 * float(self._hits(records).std()) / math.sqrt(len(records))

    def _hits(self, records: Sequence[Any]) -> Tensor:
        vectors, classes = torch.stack([one[0] for one in records]), torch.tensor([one[1] for one in records])
        hits = []
        for start in range(0, len(vectors), 1024):
            near = vectors[start : start + 1024] @ vectors.T
            near[torch.arange(len(near)), torch.arange(start, start + len(near))] = -torch.inf
            hits.append(classes[near.argmax(1)] == classes[start : start + 1024])
        return torch.cat(hits).float()
