"""`nn.MultiheadAttention` whose inner width differs from its input's: what is left when heads are removed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SlimMultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention with fewer heads than `embed_dim / head_dim`.

    PyTorch's own forward derives the inner width from the input's. Parameters and arguments are
    those of `nn.MultiheadAttention`: `in_proj_weight` is `[3 · heads · head_dim, embed_dim]`.
    """

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether `module` is a plain one that this class can stand in for."""
        return (
            type(module) is nn.MultiheadAttention
            and module._qkv_same_embed_dim
            and module.bias_k is None
            and not module.add_zero_attn
        )

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """PyTorch's encoder layers ask this before they hand the weights to a kernel that wants the full width."""
        return False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`."""
        batched = query.dim() == 3
        inputs = [x if batched else x.unsqueeze(0) for x in (query, key, value)]
        if batched and not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3) if self.in_proj_bias is not None else (None, None, None)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, T, head_dim]
            for x, w, b in zip(inputs, weights, biases, strict=True)
        )
        mask = self._bias(attn_mask, key_padding_mask, q, k)
        dropout = self.dropout if self.training else 0.0
        scores: Tensor | None = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            scores = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(scores, dropout) @ v
            scores = scores.mean(1) if average_attn_weights else scores
            scores = scores if batched else scores.squeeze(0)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal and mask is None)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), scores
        return out if self.batch_first else out.transpose(0, 1), scores

    def _bias(self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
        """Both masks as one tensor to add to the scores."""
        total: Tensor | None = None
        for mask, shape in ((attn_mask, (-1, q.shape[2], k.shape[2])), (padding, (-1, 1, 1, k.shape[2]))):
            if mask is None:
                continue
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, float("-inf"))  # noqa: PLW2901
            mask = mask.reshape(shape)  # noqa: PLW2901
            if mask.dim() == 3 and mask.shape[0] > 1:  # one per batch entry and head
                mask = mask.unflatten(0, (q.shape[0], -1))  # noqa: PLW2901
            total = mask if total is None else total + mask
        return total
