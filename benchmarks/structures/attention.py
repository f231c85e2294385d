"""Structures with attention: ViT, Swin and MaxViT blocks, ConvNeXt and mixer blocks with their norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Head, case, conv


def mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


@case({"stem": 8, "wide": 16})
class ConvNeXt(nn.Module):
    """Layer norms over channels that go, and a layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8)
        self.depth, self.norm = conv(8, 8, 7, groups=8), nn.LayerNorm(8)
        self.wide, self.narrow, self.scale = nn.Linear(8, 16), nn.Linear(16, 8), nn.Parameter(torch.ones(8))
        self.last, self.fc = nn.LayerNorm(8, eps=1e-6), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm0(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(F.gelu(self.wide(y)))
        x = x + y.permute(0, 3, 1, 2)
        return self.fc(self.last(x.mean([-2, -1])))


@case({"stem": 8})
class PooledChannelsLast(nn.Module):
    """Global pooling of a tensor whose channels lie last in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8)
        self.pool, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.fc(self.flatten(self.pool(x)))


@case({"patch": 8, "tokens.0": 6, "channels.0": 12})
class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm1, self.norm2 = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8), nn.LayerNorm(8)
        self.tokens, self.channels, self.fc = mlp(16, 6), mlp(8, 12), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return self.fc((x + self.channels(self.norm2(x))).mean(1))


class EncoderBlock(nn.Module):
    def __init__(self, width: int, heads: int, weights: bool) -> None:
        super().__init__()
        self.norm1, self.norm2, self.need_weights = nn.LayerNorm(width), nn.LayerNorm(width), weights
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = mlp(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=self.need_weights)[0]
        return x + self.mlp(self.norm2(x))


class TorchvisionViT(nn.Module):
    """As torchvision's, on nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_dim = 12
        self.patch, self.token = nn.Conv2d(3, 12, 2, stride=2), nn.Parameter(torch.zeros(1, 1, 12))
        self.position, self.norm = nn.Parameter(torch.randn(1, 17, 12)), nn.LayerNorm(12)
        self.blocks = nn.Sequential(EncoderBlock(12, 4, weights=False), EncoderBlock(12, 4, weights=True))
        self.fc = nn.Linear(12, 3)

    def project(self, x: Tensor) -> Tensor:
        return self.patch(x).reshape(x.shape[0], self.hidden_dim, 16).permute(0, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.project(x)], 1) + self.position
        return self.fc(self.norm(self.blocks(x))[:, 0])


INNER = {"blocks.0.attention": 4, "blocks.0.mlp.0": 24, "blocks.1.attention": 4, "blocks.1.mlp.0": 24}


@case({"patch": 12, **INNER})
class ViT(TorchvisionViT):
    """Heads go, and the width, which an attribute holds; the attention weights that nobody reads forbid nothing."""


@case(INNER)
class ViTBakedWidth(TorchvisionViT):
    """The width is written in the forward."""

    def project(self, x: Tensor) -> Tensor:
        return self.patch(x).reshape(x.shape[0], 12, 16).permute(0, 2, 1)


class Attention(nn.Module):
    """As timm's: heads counted by an attribute; `free` decides whether the result is viewed by -1 or by the width."""

    def __init__(self, width: int, heads: int, *, free: bool, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.free, self.fused = heads, width // heads, free, fused
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(B, N, -1 if self.free else C))


class TimmViT(nn.Module):
    """A class token, positions, two blocks."""

    def __init__(self, *, free: bool, fused: bool, heads: int = 4, width: int = 12) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, width, 4, stride=4), nn.Parameter(torch.zeros(1, 1, width))
        self.position, self.norm = nn.Parameter(torch.randn(1, 5, width)), nn.LayerNorm(width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.attentions = nn.ModuleList(Attention(width, heads, free=free, fused=fused) for _ in range(2))
        self.mlps = nn.ModuleList(mlp(width, 10) for _ in range(2))
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for k, (attention, perceptron) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * k](x))
            x = x + perceptron(self.norms[2 * k + 1](x))
        return self.fc(self.norm(x)[:, 0])


@case({"mlps.0.0": 10, "mlps.1.0": 10})
class ViTByWidth(TimmViT):
    """Viewed by the width: neither heads nor width may change."""

    def __init__(self) -> None:
        super().__init__(free=False, fused=True)


@case({"patch": 12, "attentions.0.qkv": 4, "attentions.1.qkv": 4, "mlps.0.0": 10, "mlps.1.0": 10})
class ViTFree(TimmViT):
    """Viewed by -1: the width goes channel by channel, attention goes by whole heads."""

    def __init__(self) -> None:
        super().__init__(free=True, fused=False)


@case({"patch": 12, "attentions.0.qkv": 4, "attentions.1.qkv": 4, "mlps.0.0": 10, "mlps.1.0": 10})
class ViTFreeFused(TimmViT):
    def __init__(self) -> None:
        super().__init__(free=True, fused=True)


@case({"patch": 12, "attentions.0.qkv": 3, "attentions.1.qkv": 3, "mlps.0.0": 10, "mlps.1.0": 10})
class ViTThreeHeads(TimmViT):
    """As many heads as there are of query, key and value (ViT-Tiny)."""

    def __init__(self) -> None:
        super().__init__(free=True, fused=True, heads=3)


@case({"patch": 16, "attentions.0.qkv": 4, "attentions.1.qkv": 4, "mlps.0.0": 10, "mlps.1.0": 10})
class ViTSquareHeads(TimmViT):
    """As many heads as each has dimensions: two attributes of one size, of which one changes."""

    def __init__(self) -> None:
        super().__init__(free=True, fused=False, width=16)


def shifted_window_attention(
    x: Tensor, qkv: nn.Linear, proj: nn.Linear, bias: Tensor, window: int, heads: int, shift: int
) -> Tensor:
    """As torchvision's: sizes from the shape of the input and a number of heads."""
    B, H, W, C = x.shape
    if shift:
        x = torch.roll(x, shifts=(-shift, -shift), dims=(1, 2))
    windows = (H // window) * (W // window)
    x = x.view(B, H // window, window, W // window, window, C)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(B * windows, window * window, C)
    parts = F.linear(x, qkv.weight, qkv.bias).reshape(x.size(0), x.size(1), 3, heads, C // heads)
    q, k, v = parts.permute(2, 0, 3, 1, 4)
    q = q * (C // heads) ** -0.5
    weights = q.matmul(k.transpose(-2, -1)) + bias
    if shift:
        mask = x.new_zeros((H, W))
        count = 0
        for rows in (slice(0, -window), slice(-window, -shift), slice(-shift, None)):
            for columns in (slice(0, -window), slice(-window, -shift), slice(-shift, None)):
                mask[rows, columns] = count
                count += 1
        mask = mask.view(H // window, window, W // window, window).permute(0, 2, 1, 3)
        mask = mask.reshape(windows, window * window)
        mask = mask.unsqueeze(1) - mask.unsqueeze(2)
        mask = mask.masked_fill(mask != 0, -100.0).masked_fill(mask == 0, 0.0)
        weights = weights.view(B, windows, heads, x.size(1), x.size(1)) + mask.unsqueeze(1).unsqueeze(0)
        weights = weights.view(-1, heads, x.size(1), x.size(1))
    x = weights.softmax(-1).matmul(v).transpose(1, 2).reshape(x.size(0), x.size(1), C)
    x = F.linear(x, proj.weight, proj.bias)
    x = x.view(B, H // window, W // window, window, window, C).permute(0, 1, 3, 2, 4, 5).reshape(B, H, W, C)
    return torch.roll(x, shifts=(shift, shift), dims=(1, 2)) if shift else x


class SwinBlock(nn.Module):
    def __init__(self, width: int, heads: int, shift: int) -> None:
        super().__init__()
        self.window_size, self.num_heads, self.shift_size = 4, heads, shift
        self.norm1, self.norm2, self.mlp = nn.LayerNorm(width), nn.LayerNorm(width), mlp(width, 2 * width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.randn(49, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        offsets = (grid[:, :, None] - grid[:, None, :] + 3).permute(1, 2, 0)
        self.register_buffer("index", (offsets[..., 0] * 7 + offsets[..., 1]).flatten())

    def forward(self, x: Tensor) -> Tensor:
        bias = self.relative_position_bias_table[self.index].view(16, 16, -1).permute(2, 0, 1).contiguous()
        x = x + shifted_window_attention(
            self.norm1(x),
            self.qkv,
            self.proj,
            bias.unsqueeze(0),
            self.window_size,
            self.num_heads,
            self.shift_size,
        )
        return x + self.mlp(self.norm2(x))


@case({"one.mlp.0": 16, "two.mlp.0": 16, "three.mlp.0": 32}, (2, 3, 16, 16))
class Swin(nn.Module):
    """Two blocks, patch merging, one block: the width is the attention's, so it stays."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.one, self.two = nn.Conv2d(3, 8, 2, stride=2), SwinBlock(8, 2, 0), SwinBlock(8, 2, 2)
        self.norm, self.reduction, self.three = (
            nn.LayerNorm(32),
            nn.Linear(32, 16, bias=False),
            SwinBlock(16, 4, 0),
        )
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(self.patch(x).permute(0, 2, 3, 1)))
        corners = [x[..., i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        x = self.three(self.reduction(self.norm(torch.cat(corners, -1))))
        return self.fc(x.mean((1, 2)))


class RelativeAttention(nn.Module):
    """As MaxViT's: `[B, G, P, D]` with G windows of P positions."""

    def __init__(self, width: int, head_dim: int, positions: int) -> None:
        super().__init__()
        self.n_heads, self.head_dim, self.scale_factor = width // head_dim, head_dim, width**-0.5
        self.to_qkv, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(self.n_heads, positions, positions))

    def forward(self, x: Tensor) -> Tensor:
        B, G, P, D = x.shape
        q, k, v = torch.chunk(self.to_qkv(x), 3, dim=-1)
        q, k, v = (t.reshape(B, G, P, self.n_heads, self.head_dim).permute(0, 1, 3, 2, 4) for t in (q, k, v))
        k = k * self.scale_factor
        weights = torch.einsum("B G H I D, B G H J D -> B G H I J", q, k)
        weights = F.softmax(weights + self.bias, dim=-1)
        out = torch.einsum("B G H I J, B G H J D -> B G H I D", weights, v)
        return self.merge(out.permute(0, 1, 3, 2, 4).reshape(B, G, P, D))


class PartitionAttention(nn.Module):
    """Attention in windows, or over a grid, of 4 × 4 positions."""

    def __init__(self, width: int, *, grid: bool) -> None:
        super().__init__()
        self.grid, self.p = grid, 4
        self.norm, self.attention = nn.LayerNorm(width), RelativeAttention(width, 4, 16)
        self.norm2, self.mlp = nn.LayerNorm(width), mlp(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        P = self.p
        x = x.reshape(B, C, H // P, P, W // P, P).permute(0, 2, 4, 3, 5, 1)
        x = x.reshape(B, (H // P) * (W // P), P * P, C)
        if self.grid:
            x = x.swapaxes(-3, -2)
            x = torch.cat([x] * 4, 2) if x.shape[2] < 16 else x
        x = x + self.attention(self.norm(x))
        x = x + self.mlp(self.norm2(x))
        if self.grid:
            x = x[:, :, : (H // P) * (W // P)].swapaxes(-3, -2)
        x = x.reshape(B, H // P, W // P, P, P, C).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(B, C, H, W)


class MBConv(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.pre, self.expand, self.norm_a = (
            nn.BatchNorm2d(width),
            conv(width, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
        )
        self.depth, self.norm_b = conv(hidden, hidden, groups=hidden, bias=False), nn.BatchNorm2d(hidden)
        self.squeeze, self.excite, self.project = (
            conv(hidden, 3, 1),
            conv(3, hidden, 1),
            conv(hidden, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.norm_a(self.expand(self.pre(x))))
        y = F.gelu(self.norm_b(self.depth(y)))
        y = y * self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return x + self.project(y)


@case({"mb.expand": 12, "mb.squeeze": 3, "window.mlp.0": 16, "grid.mlp.0": 16})
class MaxViT(nn.Module):
    """MBConv, window attention, grid attention; the width is tied to the number of heads by its views."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mb, self.head = conv(3, 8), MBConv(8, 12), Head(8)
        self.window, self.grid = PartitionAttention(8, grid=False), PartitionAttention(8, grid=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.grid(self.window(self.mb(self.stem(x)))))
