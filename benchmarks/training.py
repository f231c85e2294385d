"""One epoch of CIFAR ResNet32 at batch 128: `ps.train` against a plain fp32 PyTorch loop, in turns in one run.

    python benchmarks/training.py --data /path/to/cifar10-jpeg --fraction 0.1 --repeats 3

The plain loop is what a tutorial shows: a DataLoader with worker processes, images cropped, flipped and normalised
one by one, fp32. Its images are decoded beforehand, so that only augmentation and training are compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import pintsize as ps
from pintsize.measure import machine


class PlainImages(Dataset):
    """Decoded images; crop, flip and normalisation by image."""

    def __init__(
        self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self.images, self.labels = images, labels
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = F.pad(self.images[index], (4, 4, 4, 4))
        top, left = (int(n) for n in torch.randint(0, 9, (2,)))
        image = image[:, top : top + 32, left : left + 32]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return (image.float() / 255 - self.mean) / self.std, int(self.labels[index])


def plain_epoch(images: PlainImages, batch_size: int, workers: int) -> float:
    model = ps.models.create("resnet32").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    start = time.perf_counter()
    for x, y in DataLoader(images, batch_size=batch_size, shuffle=True, num_workers=workers):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def pintsize_epoch(data: ps.data.Data, batch_size: int) -> float:
    model = ps.models.create("resnet32")
    start = time.perf_counter()
    ps.train(model, data, epochs=1, lr=0.1, batch_size=batch_size, progress=False)
    return time.perf_counter() - start


def decoded(split: ps.data.Split, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """The images of a split as uint8 `[N, C, H, W]`."""
    m, s = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return torch.cat(
        [((x * s + m) * 255).round().clamp(0, 255).to(torch.uint8) for x, _ in split.batches(1024)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of an epoch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = ps.data.load(f"imagefolder:{options.data}", val_fraction=0.02)
    part = data.train.subset(int(len(data.train) * options.fraction))
    data = dataclasses.replace(data, train=part, val=data.val.subset(10))
    plain = PlainImages(decoded(data.train, data.mean, data.std), data.train.labels, data.mean, data.std)
    seconds: dict[str, list[float]] = {"plain PyTorch fp32": [], "pintsize.train": []}
    for _ in range(options.repeats):
        seconds["plain PyTorch fp32"].append(plain_epoch(plain, options.batch_size, options.workers))
        seconds["pintsize.train"].append(pintsize_epoch(data, options.batch_size))
    first = statistics.median(seconds["plain PyTorch fp32"])
    print(
        f"ResNet32, {len(data.train)} images, batch {options.batch_size}, medians of {options.repeats}; {machine()['cpu']}"
    )
    print(f"{'':22}{'seconds':>10}{'least':>10}{'× plain':>10}")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:22}{median:10.2f}{min(times):10.2f}{first / median:10.2f}")


if __name__ == "__main__":
    main()
