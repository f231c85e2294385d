"""A YOLO-style detector: C2f blocks, SPPF, a feature pyramid and three anchor-free heads; its loss, and its boxes.

Run it (`python examples/yolo.py`) to train it on scenes of digits, in a plain PyTorch loop; or name it on a command line:
`--model yolo:make --task yolo:task`.
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn

import pintsize as ps
from pintsize.tasks.detection import Detection

STRIDES, CLASSES = (4, 8, 16), 10
LARGEST = (18, 28)  # pixels: the longer side of the boxes of the first two heads; the third finds all above


class Conv(nn.Sequential):
    def __init__(self, c_in, c_out, kernel=3, stride=1):
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out), nn.SiLU()
        )


class Bottleneck(nn.Module):
    def __init__(self, channels, shortcut):
        super().__init__()
        self.layers, self.shortcut = (
            nn.Sequential(Conv(channels, channels), Conv(channels, channels)),
            shortcut,
        )

    def forward(self, x):
        return x + self.layers(x) if self.shortcut else self.layers(x)


class C2f(nn.Module):
    """Two halves; one goes through bottlenecks; all that it was on its way is put together."""

    def __init__(self, c_in, c_out, depth=1, shortcut=False):
        super().__init__()
        self.first = Conv(c_in, c_out, 1)
        self.blocks = nn.ModuleList(Bottleneck(c_out // 2, shortcut) for _ in range(depth))
        self.last = Conv(c_out // 2 * (2 + depth), c_out, 1)

    def forward(self, x):
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class SPPF(nn.Module):
    """Maxima over 5, 9 and 13 pixels, beside what they are taken of."""

    def __init__(self, channels):
        super().__init__()
        self.first, self.last = Conv(channels, channels // 2, 1), Conv(channels * 2, channels, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Yolo(nn.Module):
    """[B, C, H, W] → three maps [B, 4 + K, H / stride, W / stride]: how far the sides are, and logits of K classes."""

    def __init__(self, num_classes=CLASSES, in_channels=1, width=12):
        super().__init__()
        a, b, c, d = width, 2 * width, 4 * width, 6 * width
        self.fine = nn.Sequential(
            Conv(in_channels, a, stride=2), Conv(a, b, stride=2), C2f(b, b, shortcut=True)
        )
        self.middle = nn.Sequential(Conv(b, c, stride=2), C2f(c, c, shortcut=True))
        self.coarse = nn.Sequential(Conv(c, d, stride=2), C2f(d, d, shortcut=True), SPPF(d))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.down_middle, self.down_fine = C2f(c + d, c), C2f(b + c, b)
        self.to_middle, self.up_middle = Conv(b, b, stride=2), C2f(b + c, c)
        self.to_coarse, self.up_coarse = Conv(c, c, stride=2), C2f(c + d, d)
        self.heads = nn.ModuleList(
            nn.Sequential(Conv(n, n), nn.Conv2d(n, 4 + num_classes, 1)) for n in (b, c, d)
        )
        for head in self.heads:  # few cells have an object
            nn.init.constant_(head[-1].bias, -4.0)
            nn.init.constant_(head[-1].bias[:4], 0.5)

    def forward(self, x):
        fine = self.fine(x)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.down_middle(torch.cat([self.up(coarse), middle], 1))
        fine = self.down_fine(torch.cat([self.up(middle), fine], 1))
        middle = self.up_middle(torch.cat([self.to_middle(fine), middle], 1))
        coarse = self.up_coarse(torch.cat([self.to_coarse(middle), coarse], 1))
        return tuple(head(x) for head, x in zip(self.heads, (fine, middle, coarse), strict=True))


def make(num_classes=CLASSES, in_channels=1):
    return Yolo(num_classes, in_channels)


def flat(outputs):
    """All cells of all heads: boxes [B, N, 4] in pixels, logits [B, N, K], centres [N, 2] and strides [N, 1]."""
    boxes, logits, centres, strides = [], [], [], []
    for head, stride in zip(outputs, STRIDES, strict=True):
        rows, columns = (torch.arange(n, device=head.device) + 0.5 for n in head.shape[2:])
        centre = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).reshape(-1, 2) * stride
        out = head.float().flatten(2).transpose(1, 2)
        sides = F.softplus(out[..., :4]) * stride
        boxes.append(torch.cat([centre - sides[..., :2], centre + sides[..., 2:]], -1))
        logits.append(out[..., 4:])
        centres.append(centre)
        strides.append(torch.full_like(centre[:, :1], stride))
    return torch.cat(boxes, 1), torch.cat(logits, 1), torch.cat(centres), torch.cat(strides)


def overlap(ours, theirs):
    """Generalised intersection over union (1902.09630) of pairs of boxes, [n]."""
    both = (
        (torch.minimum(ours[:, 2:], theirs[:, 2:]) - torch.maximum(ours[:, :2], theirs[:, :2]))
        .clamp(0)
        .prod(1)
    )
    hull = (torch.maximum(ours[:, 2:], theirs[:, 2:]) - torch.minimum(ours[:, :2], theirs[:, :2])).prod(1)
    union = (ours[:, 2:] - ours[:, :2]).prod(1) + (theirs[:, 2:] - theirs[:, :2]).prod(1) - both
    return both / union - (hull - union) / hull


def loss(outputs, targets):
    """Cells near the middle of a box find it, in the head for its size: overlap of the box, cross-entropy of classes."""
    boxes, logits, centres, strides = flat(outputs)
    wanted, found, truth = torch.zeros_like(logits), [], []
    for image, target in enumerate(targets):
        box, label = target["boxes"].to(boxes.device), target["labels"].to(boxes.device)
        if not len(box):
            continue
        middle, side = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]).amax(1)
        head = torch.bucketize(side, side.new_tensor(LARGEST))
        stride = side.new_tensor(STRIDES)[head]
        near = (centres[:, None] - middle).abs().amax(2) < stride  # [N, n]
        cell, which = (near & (strides == stride)).nonzero(as_tuple=True)
        wanted[image, cell, label[which]] = 1
        found.append(boxes[image, cell])
        truth.append(box[which])
    classes = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    count = max(1, sum(map(len, found)))
    places = (1 - overlap(torch.cat(found), torch.cat(truth))).sum() if found else 0 * boxes.sum()
    return (classes + 2 * places) / count


def decode(outputs, least=0.05, same=0.5, most=100):
    """Boxes, scores and labels of each image; of boxes of a class that overlap by `same` the best one stays."""
    found = []
    all_boxes, all_logits, *_ = flat(outputs)
    for every, logit in zip(all_boxes, all_logits, strict=True):
        scores, labels = logit.sigmoid().max(1)
        order = scores.argsort(descending=True)[: 3 * most]
        order = order[scores[order] > least]
        boxes, scores, labels = every[order], scores[order], labels[order]
        shifted, kept = boxes + 1e4 * labels[:, None], []
        areas, left = (boxes[:, 2:] - boxes[:, :2]).prod(1), torch.arange(len(boxes))
        while len(left) and len(kept) < most:
            best, left = left[0], left[1:]
            kept.append(best)
            start = torch.maximum(shifted[best, :2], shifted[left, :2])
            both = (torch.minimum(shifted[best, 2:], shifted[left, 2:]) - start).clamp(0).prod(1)
            left = left[both / (areas[best] + areas[left] - both) < same]
        kept = torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)
        found.append({"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]})
    return found


def task():
    """For `--task yolo:task`."""
    return Detection(loss, decode, metric="mAP@.5")


def train(epochs=8, batch_size=16):
    torch.manual_seed(0)
    data = ps.data.load("digits-scenes")
    model, metric = make(), task().metric
    total = epochs * data.train.num_batches(batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=total, pct_start=0.2)
    for epoch in range(epochs):
        for images, targets in data.train.batches(batch_size, shuffle=True, augment=True, epoch=epoch):
            value = loss(model(images), targets)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {value.item():.3f}", flush=True)
    model.eval()
    with torch.no_grad():
        records = [one for images, targets in data.test for one in metric.records(model(images), targets)]
    print(f"{metric.name} {metric.told(metric.value(records))} ± {metric.standard_error(records):.2f}")
    torch.save(model.state_dict(), "yolo.pt")


if __name__ == "__main__":
    train(*map(int, sys.argv[1:]))
