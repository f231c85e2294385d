"""Networks written as `.onnx` by torch's two exporters and by us, read again: equal, and of the same channel groups.

    python benchmarks/onnx_import.py                              # our networks
    python benchmarks/onnx_import.py --path /tmp/timm             # and timm's, from a folder that holds timm and torchvision
    python benchmarks/onnx_import.py --only resnet20 --how ours

One line is one file: the largest difference from ONNX Runtime over the largest output; whether every group of channels of
the original (its weights' shapes and dimensions) is one of the imported network, and the other way round; seconds to read.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import io
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch

import pintsize as ps
from torchvision_here import imported

OURS = [
    "mobilenetv2", "resnet-demo", "resnet18", "resnet20", "resnet34", "resnet50", "shufflenetv2-x0.5", "shufflenetv2-x1.0",
    "vgg16-bn",
]  # fmt: skip
TIMM = [
    "convnext_atto", "efficientnet_b0", "mobilenetv3_small_050", "regnetx_002", "vit_tiny_patch16_224", "ghostnet_050",
    "hardcorenas_a", "res2net50_14w_8s", "resnest14d", "dla34", "hrnet_w18_small", "cspresnet50", "densenet121",
    "inception_v3", "mobilevit_xxs", "mobileone_s0", "repvgg_a0", "tf_efficientnet_lite0", "poolformer_s12",
    "edgenext_xx_small", "levit_128s", "deit_tiny_patch16_224", "mixer_s32_224", "visformer_tiny", "efficientformer_l1",
    "fastvit_t8", "tinynet_e", "lcnet_050", "mnasnet_small", "selecsls42", "eca_resnet33ts", "gernet_s",
]  # fmt: skip


def write(model, example, how, path):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if how == "ours":
            ps.export(model, path, example=example)
        elif how == "dynamo":
            torch.onnx.export(model, (example,), path, dynamo=True, external_data=False)
        else:
            torch.onnx.export(model, (example,), path, dynamo=False, opset_version=17, input_names=["input"],
                              dynamic_axes={"input": {0: "batch"}})  # fmt: skip


def signature(network, example):
    """Of each group of channels that may go: how many, and the weights that they are in."""
    kinds = {name: tuple(one.shape) for name, one in network.named_parameters() if one.dim() > 1}
    found = Counter()
    for group in ps.channel_groups(network, example):
        members = sorted((kinds[m.parameter], m.dim) for m in group.members if m.parameter in kinds)
        found[(group.size * group.channels, tuple(members))] += 1
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path")
    parser.add_argument("--only", default="")
    parser.add_argument("--how", default="ours,dynamo,script")
    parser.add_argument("--csv", default=None)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    names = [*OURS]
    if given.path:
        sys.path.append(given.path)
        imported("torchvision")
        names += TIMM
    rows = []
    for name in [one for one in names if given.only in one]:
        torch.manual_seed(0)
        if name in OURS:
            model, size = ps.models.create(name), 32
        else:
            import timm

            model = timm.create_model(name)
            size = model.default_cfg["input_size"][-1]
        model.eval()
        example = torch.rand(2, 3, size, size)
        wanted = signature(model, example)
        for how in given.how.split(","):
            row = {"network": name, "by": how}
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "net.onnx"
                try:
                    write(copy.deepcopy(model), example[:1] if how == "dynamo" else example, how, path)
                except Exception as error:
                    rows.append({**row, "read": f"not written ({type(error).__name__})"})
                    print(rows[-1], flush=True)
                    continue
                began = time.perf_counter()
                try:
                    net = ps.models.from_onnx(path)
                    row |= {"read": "equal", "difference": net.program.told["difference"]}
                    row["seconds"] = round(time.perf_counter() - began, 2)
                    found = signature(net, example)
                    row["groups"] = f"{sum((wanted & found).values())} of {sum(wanted.values())}"
                    row["same groups"] = wanted == found
                except ps.errors.PintsizeError as error:
                    row["read"] = f"refused: {error}"
            rows.append(row)
            print(row, flush=True)
    read = [row for row in rows if not row["read"].startswith("not written")]
    equal = [row for row in read if row["read"] == "equal"]
    same = [row for row in equal if row["same groups"]]
    print(f"{len({row['network'] for row in equal})} networks: {len(equal)} of {len(read)} files equal, "
          f"{len(same)} of {len(equal)} with the same groups")  # fmt: skip
    if given.csv:
        with Path(given.csv).open("w", newline="") as stream:
            writer = csv.DictWriter(
                stream, ["network", "by", "read", "difference", "seconds", "groups", "same groups"]
            )
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
