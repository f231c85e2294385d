"""Pose: two places in each image, found by a network with two outputs, made small and exported.

Run it: `python examples/pose.py`. A digit somewhere on a canvas stands in for a person: wanted are its upper left and its
lower right corner; the network also says how sure it is.
"""

import sys

import torch
from torch import nn
from torch.nn import functional as F

import pintsize as ps


class Pose(nn.Module):
    """[B, 1, 48, 48] → {"keypoints": [B, 2, 2] in pixels, "sure": [B]}."""

    def __init__(self, width=16):
        super().__init__()

        def block(inputs, outputs):
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
            )

        self.body = nn.Sequential(block(1, width), block(width, 2 * width), block(2 * width, 4 * width))
        self.maps, self.sure = nn.Conv2d(4 * width, 2, 1), nn.Linear(4 * width, 1)
        self.register_buffer("places", 8 * (torch.arange(6) + 0.5))

    def forward(self, x):
        x = self.body(x)
        share = self.maps(x).flatten(2).softmax(2).unflatten(2, (6, 6))  # soft argmax (1603.09114)
        across, down = (share.sum(2) * self.places).sum(2), (share.sum(3) * self.places).sum(2)
        return {"keypoints": torch.stack([across, down], 2), "sure": self.sure(x.mean((2, 3))).flatten()}


def poses(split, side=48):
    """Digits of 16 pixels on canvases, and the places of two of their corners."""

    def batches():
        generator = torch.Generator().manual_seed(len(split))
        for images, _ in split.batches(64):
            digits = F.interpolate(images, scale_factor=2.0)
            corner = torch.randint(side - 16, (len(digits), 2), generator=generator)
            canvas = digits.min() + torch.zeros(len(digits), 1, side, side)
            for image, digit, (x, y) in zip(canvas, digits, corner.tolist(), strict=True):
                image[:, y : y + 16, x : x + 16] = digit
            yield canvas, torch.stack([corner, corner + 16], 1).float()

    return batches


def main(epochs=10):
    torch.manual_seed(0)
    digits = ps.data.load("digits")
    data = ps.data.from_loaders(
        *(poses(split) for split in (digits.train, digits.val, digits.test)),
        task={"name": "keypoints", "within": 0.1},
    )
    model = Pose()
    ps.train(
        model,
        data,
        epochs=epochs,
        optimizer="adamw",
        lr=4e-3,
        weight_decay=0.01,
        precision="fp32",
        progress=False,
    )
    result = ps.compress(
        model, data, epochs=0, ratio=0.25, recover_epochs=epochs, recover_optimizer="adamw", recover_lr=2e-3,
        recover_precision="fp32", weights=8, out="runs/pose", progress=False,
    )  # fmt: skip
    print(result.table())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
