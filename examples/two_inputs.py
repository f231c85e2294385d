"""Two inputs by name: a picture and how large its pixels are, from which the true width of a digit is told.

Run it: `python examples/two_inputs.py`.
"""

import sys

import torch
from torch import nn

import pintsize as ps


class Width(nn.Module):
    """`image` [B, 1, 8, 8], `scale` [B, 1] → a length [B, 1]."""

    def __init__(self, width=16):
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * width, width),
        )  # fmt: skip
        self.scale, self.head = nn.Linear(1, width), nn.Linear(width, 1)

    def forward(self, image, scale):
        return self.head(torch.relu(self.see(image) * self.scale(scale)))


def measured(split):
    """Batches as dicts: the inputs by the names of the forward's arguments, and the `target`."""

    def batches():
        generator = torch.Generator().manual_seed(len(split))
        for images, _ in split.batches(64):
            ink = (images > 0).any(2).sum((1, 2))  # columns with ink
            scale = torch.rand(len(images), 1, generator=generator) + 0.5
            yield {"image": images, "scale": scale, "target": ink[:, None] * scale}

    return batches


def main(epochs=20):
    torch.manual_seed(0)
    digits = ps.data.load("digits")
    task = {"name": "regression", "unit": "mm"}
    data = ps.data.from_loaders(*(measured(s) for s in (digits.train, digits.val, digits.test)), task=task)
    model = Width()
    options = {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.0, "precision": "fp32", "progress": False}
    ps.train(model, data, epochs=epochs, **options)
    dense = ps.evaluate(model, data.test)
    example = {"image": torch.zeros(2, 1, 8, 8), "scale": torch.ones(2, 1)}
    ps.prune(model, example, macs=0.5, importance="taylor", data=data.train)
    ps.train(model, data, epochs=max(1, epochs // 2), **options)
    ps.quantize(model, calibration=data.train, progress=False)
    ps.export(model, "width.onnx", example=example)  # its inputs are called image and scale
    print(ps.verify("width.onnx", model, data.val))
    with ps.open_runtime("width.onnx", threads=1) as runtime:
        print(f"dense MAE {dense:.3f} mm, the file of half the MACs {ps.evaluate(runtime, data.test):.3f} mm")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
