"""Super-resolution: images of twice the height and width (sub-pixel convolution, 1609.05158), for images of any size.

Run it: `python examples/super_resolution.py`.
"""

import sys

import torch
from torch import nn
from torch.nn import functional as F

import pintsize as ps


class Larger(nn.Module):
    """[B, 1, H, W] → [B, 1, 2·H, 2·W]: what a bilinear enlargement lacks is learned."""

    def __init__(self, width=24):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, 4, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, x):
        return self.body(x) + F.interpolate(x, scale_factor=2.0, mode="bilinear")


def pairs(split):
    """Images at half their size, and the images, between 0 and 1."""

    def batches():
        mean, std = split.transform.mean[0], split.transform.std[0]
        for images, _ in split.batches(32):
            light = images * std + mean
            yield F.avg_pool2d(light, 2), light

    return batches


def main(epochs=4, images=1800):
    torch.manual_seed(0)
    scenes = ps.data.load("digits-scenes:masks", limit=images)
    data = ps.data.from_loaders(
        *(pairs(s) for s in (scenes.train, scenes.val, scenes.test)), task="restoration"
    )
    model = Larger()
    options = {"optimizer": "adamw", "weight_decay": 0.0, "precision": "fp32", "progress": False}
    ps.train(model, data, epochs=epochs, lr=4e-3, **options)
    dense = ps.evaluate(model, data.test)
    example = torch.zeros(2, 1, 32, 32)
    ps.prune(model, example, macs=0.5)
    ps.train(model, data, epochs=epochs, lr=2e-3, **options)
    ps.quantize(model, calibration=data.train, progress=False)
    ps.export(model, "larger.onnx", example=example, dynamic={"batch", "height", "width"})
    print(ps.verify("larger.onnx", model, [torch.rand(1, 1, 24, 40), torch.rand(3, 1, 50, 18)]))
    with ps.open_runtime("larger.onnx", threads=1) as runtime:
        print(
            f"dense PSNR {dense:.2f} dB, the file of half the MACs {ps.evaluate(runtime, data.test):.2f} dB"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
