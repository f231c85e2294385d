"""A file quantized by us, by ONNX Runtime and by NNCF on the same images: output error, and latency in turns.

    pip install nncf                     # anywhere; --path names a folder that it was installed into
    python benchmarks/onnx_file_peers.py net.onnx photos/ --size 320 [--ours runs/x/net.onnx …] [--path DIR]

Boxes (`--boxes`, of a YOLO that gives [1, 4 + K, N]): those above a score of .25, after NMS at an overlap of .5; the share
of the boxes of both that have one of the other's of the same class at an overlap of at least .5 (2 × matched / all).

Errors: root of the mean over images of ‖file − dense‖² / ‖dense‖², every output. Latency: one image, one thread, ONNX
Runtime, medians of calls in turns. Further files are measured beside them.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import torch

import pintsize as ps
from pintsize.deploy import open_runtimes
from pintsize.measure import side_by_side
from pintsize.run.ranges import best_ranges
from pintsize.tables import Table


def quantized_by_us(file, calibration, out, data):
    """As `pintsize shrink --ratio 0` does it."""
    net = ps.models.from_onnx(file)
    ps.quantize(net, calibration=calibration, **best_ranges(net, data))
    ps.export(net, out, example=calibration[0][:1])


def quantized_by_onnxruntime(file, calibration, out, **options):
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [image[None].numpy() for batch in calibration for image in batch]

        def get_next(self):
            return {name: self.left.pop()} if self.left else None

    name = ps.models.from_onnx(file, check=False).inputs[0].name
    ready = Path(out).with_suffix(".ready.onnx")
    model = onnx.load(file)
    # it writes attributes that older opsets do not have
    if next(one.version for one in model.opset_import if not one.domain) < 13:
        model = onnx.version_converter.convert_version(model, 17)
    onnx.save(model, ready)
    quant_pre_process(ready, ready, skip_symbolic_shape=True)
    quantization.quantize_static(ready, out, Reader(), per_channel=True, **options)


def quantized_by_nncf(file, calibration, out):
    import nncf

    name = ps.models.from_onnx(file, check=False).inputs[0].name
    images = [image[None].numpy() for batch in calibration for image in batch]
    made = nncf.quantize(
        onnx.load(file), nncf.Dataset(images, lambda one: {name: one}), subset_size=len(images)
    )
    onnx.save(made, out)


def error(runtime, dense, batches):
    total = count = 0.0
    for batch in batches:
        for image in batch:
            ours, theirs = (as_list(one(image[None].numpy())) for one in (runtime, dense))
            total += np.mean([((a - b) ** 2).sum() / (b**2).sum() for a, b in zip(ours, theirs, strict=True)])
            count += 1
    return float(np.sqrt(total / count))


def boxes(output, least=0.25):
    """Of one image: corners [n, 4] and classes [n], without those that a better one of the same class covers."""
    found, scores = output[0, :4].T, output[0, 4:].T
    classes, best = scores.argmax(1), scores.max(1)
    keep = np.flatnonzero(best > least)
    keep = keep[np.argsort(-best[keep])][:300]
    middle, size = found[keep, :2], found[keep, 2:]
    corners, classes = np.concatenate([middle - size / 2, middle + size / 2], 1), classes[keep]
    chosen = []
    for k in range(len(keep)):
        if not any(classes[k] == classes[o] and overlaps(corners[k], corners[[o]])[0] > 0.5 for o in chosen):
            chosen.append(k)
    return corners[chosen], classes[chosen]


def overlaps(box, others):
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(1)
    areas = [(one[:, 2:] - one[:, :2]).prod(1) for one in (box[None], others)]
    return both / (areas[0] + areas[1] - both)


def agreement(runtime, dense, batches):
    """Percent of the boxes of both that the other has, too; and how many boxes the dense network has."""
    matched = total = 0
    for batch in batches:
        for image in batch:
            ours, theirs = (boxes(as_list(one(image[None].numpy()))[0]) for one in (runtime, dense))
            left = list(range(len(ours[0])))
            for box, label in zip(*theirs, strict=True):
                fits = [k for k in left if ours[1][k] == label and overlaps(box, ours[0][[k]])[0] >= 0.5]
                if fits:
                    left.remove(fits[0])
                    matched += 2
            total += len(ours[0]) + len(theirs[0])
    return 100 * matched / max(total, 1), total


def as_list(outputs):
    if isinstance(outputs, dict):
        return [np.asarray(one) for one in outputs.values()]
    return (
        [np.asarray(one) for one in outputs] if isinstance(outputs, list | tuple) else [np.asarray(outputs)]
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file")
    parser.add_argument("images")
    parser.add_argument("--size", default=None)
    parser.add_argument("--mean", type=float, nargs="+")
    parser.add_argument("--std", type=float, nargs="+")
    parser.add_argument("--count", type=int, default=100, help="calibration images")
    parser.add_argument("--path", help="folder that NNCF was installed into")
    parser.add_argument("--ours", nargs="*", default=[], help="further files, made by `pintsize shrink`")
    parser.add_argument("--boxes", action="store_true", help="the file gives boxes as YOLOv8 does")
    parser.add_argument("--csv", default=None)
    given = parser.parse_args()
    if given.path:
        sys.path.append(given.path)
    torch.set_num_threads(1)
    data = ps.data.images(given.images, size=given.size, mean=given.mean, std=given.std)
    network = ps.models.from_onnx(given.file)
    calibration = (
        list(data.train.varied(network, given.count).batches(4)) if hasattr(data.train, "varied") else []
    )
    if not calibration:
        calibration = list(ps.data.varied(network, data.train, given.count).batches(4))
    test = list(data.test.batches(8))
    with tempfile.TemporaryDirectory() as folder:
        files = {"the file": Path(given.file)}
        for name, make, options in (
            ("pintsize int8", quantized_by_us, {"data": data}),
            ("ONNX Runtime", quantized_by_onnxruntime, {}),
            ("NNCF", quantized_by_nncf, {}),
        ):
            out = Path(folder) / f"{name.replace(' ', '-')}.onnx"
            try:
                make(given.file, calibration, out, **options)
                files[name] = out
            except ImportError as problem:
                print(f"{name}: not installed ({problem})")
        files |= {f"pintsize {one}": Path(one) for one in given.ours}
        rows = []
        with open_runtimes(files, backend="onnxruntime", threads=1) as runtimes:
            times = side_by_side(runtimes, (test[0][:1].numpy(),), threads=1, repeats=60)
            for name, file in files.items():
                found = {}
                if given.boxes:
                    found["boxes alike (%)"] = agreement(runtimes[name], runtimes["the file"], test)[0]
                rows.append({
                    "what": name, "error": error(runtimes[name], runtimes["the file"], test),
                    "ms": times[name].median_ms, "times faster": times["the file"].median_ms / times[name].median_ms,
                    "bytes": file.stat().st_size,
                    "times smaller": files["the file"].stat().st_size / file.stat().st_size, **found,
                })  # fmt: skip
    told = [tuple(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()) for row in rows]
    print(Table(tuple(rows[0]), told))
    if given.csv:
        with Path(given.csv).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
