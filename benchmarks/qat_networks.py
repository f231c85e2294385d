"""Training with learned scales on named networks: quantize, two steps, fold, export; the file against the simulation.

    pip install timm && python benchmarks/qat_networks.py [NAME …]

Weights are random, norms have statistics that are not those of initialisation; images are noise. A row tells the
difference of file and simulation in ONNX Runtime, over the largest output. Exit code 1 if one fails or is off.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import pintsize as ps
from pintsize.quant import exact_simulation, fold_batchnorm
from torchvision_here import imported

NETWORKS = (
    "resnet18", "mobilenetv2", "shufflenetv2-x0.5", "vgg16-bn", "alexnet", "timm:resnet18", "timm:resnet50",
    "timm:mobilenetv2_050", "timm:mobilenetv3_small_050", "timm:mobilenetv3_large_100", "timm:efficientnet_b0",
    "timm:densenet121", "timm:inception_v3", "timm:regnetx_002", "timm:mnasnet_small", "timm:vgg11_bn",
    "timm:vit_tiny_patch16_224", "timm:convnext_atto", "timm:ghostnet_050", "timm:dla34",
)  # fmt: skip
SIDES = {"timm:inception_v3": 96, "timm:vit_tiny_patch16_224": 224, "alexnet": 64}
SIDE, BATCH, ALIKE = 32, 4, 1e-5


def create(name: str) -> nn.Module:
    """The network, with norms as if it had been trained."""
    if name.startswith("timm:"):
        model = imported("timm").create_model(name.removeprefix("timm:"), num_classes=10)
    else:
        model = ps.models.create(name, num_classes=10)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        for parameter in model.parameters():  # gates and scales that are zero would hide what is behind
            if not parameter.any():
                parameter.uniform_(-0.5, 0.5)
    return model.eval()


def trained(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The network after two steps of training with quantizers, its norms folded; and images."""
    torch.manual_seed(0)
    model, side = create(name), SIDES.get(name, SIDE)
    images, labels = torch.randn(BATCH, 3, side, side), torch.arange(BATCH)
    ps.quantize(model, calibration=images, method="lsq", progress=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model.train()(images), labels)
        loss.backward()
        optimizer.step()
        if not loss.isfinite():
            raise ArithmeticError(f"loss {loss.item()}")
    fold_batchnorm(model.eval(), images)
    return model, images


def difference(name: str) -> float:
    """Of file and exact simulation, over the largest output: in float32 sums of thousands round."""
    model, images = trained(name)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "net.onnx"
        ps.export(model, path, example=images, check=False)
        with ps.open_runtime(path, threads=torch.get_num_threads()) as runtime:
            found, wanted = runtime(images), exact_simulation(model)(images.double())
    return float((found - wanted).abs().max() / wanted.abs().max())


def main() -> None:
    """Print a row for each network."""
    failed = []
    for name in sys.argv[1:] or NETWORKS:
        start = time.perf_counter()
        try:
            off = difference(name)
            outcome = f"{off:.1e}"
        except Exception as error:  # whatever it is, it is the row's outcome
            off, outcome = float("inf"), f"{type(error).__name__}: {str(error)[:100]}"
        print(f"{name:28} {time.perf_counter() - start:6.1f} s  {outcome}", flush=True)
        failed += [name] * (not off <= ALIKE)
    if failed:
        sys.exit(f"not alike: {', '.join(failed)}")


if __name__ == "__main__":
    main()
