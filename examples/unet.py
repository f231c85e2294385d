"""A U-Net (1505.04597) with a class for each pixel.

Run it (`python examples/unet.py`) to train it on scenes of digits, in a plain PyTorch loop; or name it on a command line:
`--model unet:make --task segmentation`.
"""

import sys

import torch
from torch import nn

import pintsize as ps
from pintsize.tasks import task_of


def twice(c_in, c_out, stride=1):
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(),
        nn.Conv2d(c_out, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """[B, C, H, W] → logits [B, K, H, W]; H and W are multiples of 2 to the number of steps and one.

    Half of the resolution is enough inside: that makes it four times as fast.
    """

    def __init__(self, num_classes=11, in_channels=1, width=12, steps=3):
        super().__init__()
        widths = [width * 2**step for step in range(steps + 1)]
        self.stem = twice(in_channels, width, stride=2)
        self.down = nn.ModuleList(twice(a, b) for a, b in zip([width, *widths], widths, strict=False))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, 2) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.join = nn.ModuleList(twice(2 * a, a) for a in widths[:-1])
        self.pool, self.head = nn.MaxPool2d(2), nn.ConvTranspose2d(width, num_classes, 2, 2)
        nn.init.zeros_(self.head.bias)
        nn.init.constant_(self.head.bias[:1], 4.0)  # most pixels are background

    def forward(self, x):
        x, seen = self.stem(x), []
        for step, block in enumerate(self.down):
            x = block(self.pool(x) if step else x)
            seen.append(x)
        for up, join, beside in zip(self.up[::-1], self.join[::-1], seen[-2::-1], strict=True):
            x = join(torch.cat([up(x), beside], 1))
        return self.head(x)


def make(num_classes=11, in_channels=1):
    return UNet(num_classes, in_channels)


def train(epochs=8, batch_size=8):
    torch.manual_seed(0)
    data = ps.data.load("digits-scenes:masks")
    model, task = make(), task_of("segmentation")
    total = epochs * data.train.num_batches(batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=total, pct_start=0.1)
    for epoch in range(epochs):
        for images, masks in data.train.batches(batch_size, shuffle=True, augment=True, epoch=epoch):
            value = task.loss(model(images), masks)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {value.item():.3f}", flush=True)
    model.eval()
    with torch.no_grad():
        records = [one for images, masks in data.test for one in task.metric.records(model(images), masks)]
    print(f"{task.metric.name} {task.metric.told(task.metric.value(records))}")
    torch.save(model.state_dict(), "unet.pt")


if __name__ == "__main__":
    train(*map(int, sys.argv[1:]))
