"""Every family of timm once: pruned, quantized, written as ONNX, and each result held against what it must be.

    pip install 'pintsize[timm]'
    python benchmarks/zoo.py                              # all families; goes on where it stopped
    python benchmarks/zoo.py --only swin,xcit --again     # networks with such a name, anew
    python benchmarks/zoo.py --path /tmp/timm             # timm and torchvision lie in that folder
    python benchmarks/zoo.py --table                      # print the table and the totals of the CSV

The networks (`zoo_networks.py`) have random weights, layers that start at zero or one made lively, and batch norms
whose statistics are those of random images. One line of `results/zoo.csv` is one network:

*pruned*: half of the channels of every group go. "right" if its output is that of the original with zeroed channels
(`structures/reference.py`, to 1e-4 of the largest output; the library's own check where weights are standardised,
which that does not know), else "wrong" or "refused", with the reason. *forwards* is
the time of `prune` over that of one forward of the dense network, at the image size the network is made for.
*file error*: of the quantized dense network (8 bits, two batches of random images), the largest difference of the
`.onnx` file in ONNX Runtime from the simulation, over the largest output. *integer layers*, *float layers*:
convolutions and linear layers (products with weights) of that file, by what ONNX Runtime computes them in.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pintsize as ps
from pintsize.deploy.layers import first_beyond_rounding
from pintsize.deploy.tolerance import outputs_of, relative_error
from structures import reference
from torchvision_here import imported
from zoo_networks import NETWORKS, OPTIONS

RESULTS = Path(__file__).parent / "results" / "zoo.csv"
COLUMNS = (
    "network", "family", "parameters", "size", "pruned", "error", "kept", "seconds", "forwards",
    "quantized", "file error", "first layer", "integer layers", "float layers", "reasons", "commit",
)  # fmt: skip
SIZES = (64, 96, 128, 192)
"""Of the images that are quantized with: the first that the network takes, else its own."""
EQUAL, RIGHT = 1e-5, 1e-4
_HEAVY = ("Conv", "Gemm", "MatMul")


def load_timm(path: str | None) -> Any:
    """timm; where torchvision's compiled part does not load (it is built for CUDA), its ops are declared without it."""
    if path:
        sys.path.append(path)
    return imported("timm")


def build(timm: Any, name: str, sizes: tuple[int, ...]) -> tuple[nn.Module, int]:
    """The network, lively, and the image size it takes: the first of `sizes`, else its own."""
    own = timm.get_pretrained_cfg(name).input_size[-1]
    for size in (*sizes, own):
        for options in ({}, {"img_size": size}):
            torch.manual_seed(0)
            try:
                model = timm.create_model(name, num_classes=10, **options, **OPTIONS.get(name, {}))
                enliven(model, torch.randn(4, 3, size, size))
            except Exception as error:  # timm's networks refuse sizes in many ways
                problem = error
            else:
                return model.eval(), size
    raise RuntimeError(f"it takes no image size: {problem}")


def enliven(model: nn.Module, images: Tensor) -> None:
    """Random vectors, and batch norms with the statistics of `images`: no layer is neutral, none explodes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.rand(parameter.shape, generator=generator)
            if not parameter.numel() or parameter.unique().numel() > 1:
                continue
            if name.endswith("bias"):
                parameter.copy_(0.2 * noise - 0.1)
            else:  # weights of norms, scales of layers and what begins as zero
                parameter.copy_(0.5 + noise)
        norms = [m.eval() for m in model.eval().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.train()
            norm.momentum, norm_momentum = None, norm.momentum
            norm.reset_running_stats()
            norm._zoo_momentum = norm_momentum
        model(images)
        for norm in norms:
            norm.momentum = norm.__dict__.pop("_zoo_momentum")
            norm.eval()


def prune(timm: Any, name: str) -> dict[str, Any]:
    """The part of a row that is about pruning, at the network's own image size."""
    dense, size = build(timm, name, ())
    example = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in dense.parameters()), "size": size}
    forward = statistics.median(_forward(dense, example) for _ in range(3))
    model = copy.deepcopy(dense)
    start = time.process_time()
    try:
        plan = ps.prune(model, example, ratio=0.5, scope="local", fold_constants=False)
    except ps.errors.PintsizeError as error:
        plan, row["pruned"] = None, f"refused: {_line(error)}"
    seconds = time.process_time() - start
    row |= {"seconds": f"{seconds:.1f}", "forwards": f"{seconds / forward:.0f}"}
    if plan is not None:
        error = plan.error
        if not any("Std" in type(module).__name__ for module in dense.modules()):
            wanted = reference.masked(dense, example, plan.removed)
            error = reference.error(wanted, reference.outputs(model, example))
        row |= {"pruned": "right" if error < RIGHT else "wrong", "error": f"{error:.1e}"}
        row |= {"kept": f"{plan.after['params'] / plan.before['params']:.3f}"}
    return row


def _forward(model: nn.Module, example: Tensor) -> float:
    start = time.process_time()
    with torch.no_grad():
        model(example)
    return time.process_time() - start


def quantize(timm: Any, name: str) -> dict[str, Any]:
    """The part of a row that is about the int8 file, at a small image size."""
    model, size = build(timm, name, SIZES)
    images = torch.randn(3, 2, 3, size, size, generator=torch.Generator().manual_seed(2))
    try:
        result = ps.quantize(model, calibration=list(images[:2]), method="minmax", progress=False)
    except ps.errors.PintsizeError as error:
        return {"quantized": f"refused: {_line(error)}"}
    row: dict[str, Any] = {"quantized": "yes"}
    reasons = {layer.reason.split(":")[0]: 0 for layer in result.in_float}
    for layer in result.in_float:
        reasons[layer.reason.split(":")[0]] += 1
    row["reasons"] = "; ".join(f"{count} × {reason}" for reason, count in reasons.items())
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "network.onnx"
        try:
            try:
                ps.export(model, path, example=images[2], check=False)
            except ps.errors.OperationError:  # a forward that is written for one size of batch
                ps.export(model, path, example=images[2], check=False, dynamic_batch=False)
            with ps.open_runtime(path, threads=1) as runtime:
                found = outputs_of(runtime(images[2]))
        except ps.errors.PintsizeError as error:
            return row | {"quantized": f"not exported: {_line(error)}"}
        wanted = outputs_of(model(images[2]))
        error = max(relative_error(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))
        integer, floating = layers(path)
        row |= {"file error": f"{error:.1e}", "integer layers": integer, "float layers": floating}
        if error > EQUAL:
            row["first layer"] = first_beyond_rounding(path, model, (images[2],), backend="onnxruntime")
    return row


def layers(path: Path) -> tuple[int, int]:
    """Convolutions and products with weights that ONNX Runtime computes in integers, and in float."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    optimised = path.with_name("optimised.onnx")
    options.optimized_model_filepath, options.log_severity_level = str(optimised), 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(optimised).graph
    constants = {tensor.name for tensor in graph.initializer} | {""}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    integer = floating = 0
    for node in graph.node:
        if constants.issuperset(node.input):  # weights that are stored in integers for a product in float
            constants.update(node.output)
        elif any(kind in node.op_type for kind in _HEAVY):
            exact = node.op_type.startswith("QLinear") or node.op_type in ("QGemm", "MatMulIntegerToFloat")
            weight = node.input[3 if node.op_type.startswith("Q") else 1]
            if shapes.get(weight, ())[1:] == (1, 1, 1) and not exact:
                continue  # a batch norm that stands alone
            if weight in constants or "Conv" in node.op_type:
                integer, floating = integer + exact, floating + (not exact)
    return integer, floating


def _line(error: ps.errors.PintsizeError) -> str:
    return " ".join(f"{error.what}: {error.cause}".split())[:300]


def child(options: argparse.Namespace, timm: Any, name: str, stage: str) -> dict[str, Any]:
    """One stage of one network in a process of its own, which may take so long and no longer."""
    key = {"prune": "pruned", "quantize": "quantized"}[stage]
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_send, args=(sender, {"prune": prune, "quantize": quantize}[stage], timm, name)
    )
    process.start()
    try:
        if not receiver.poll(options.limit):
            return {key: f"over the limit of {options.limit} s"}
        found: dict[str, Any] | str = receiver.recv()
    except EOFError:
        found = "the process died"
    finally:
        process.kill()
        process.join()
    return {key: f"crashed: {found}"} if isinstance(found, str) else found


def _send(sender: Any, stage: Callable[[Any, str], dict[str, Any]], timm: Any, name: str) -> None:
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        try:
            sender.send(stage(timm, name))
        except Exception as error:  # whatever it is, it is this network's result
            traceback.print_exc()
            sender.send(" ".join(f"{type(error).__name__}: {error}".split())[:300])


def warm_up() -> None:
    """Import, before the first fork, all that every network needs."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    ps.prune(model, torch.randn(1, 3, 8, 8), ratio=0.5)
    ps.quantize(model, calibration=[torch.randn(1, 3, 8, 8)], progress=False)
    with tempfile.TemporaryDirectory() as folder:
        ps.export(model, Path(folder) / "warm.onnx", example=torch.randn(1, 3, 8, 8))


def read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["network"]: row for row in csv.DictReader(file)}


def write(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".new")
    with fresh.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in NETWORKS if name in rows)
    fresh.replace(path)


def totals(rows: list[dict[str, Any]]) -> Iterator[str]:
    pruned = [row["pruned"] for row in rows]
    counts = {kind: sum(text.startswith(kind) for text in pruned) for kind in ("right", "refused", "wrong")}
    other = len(rows) - sum(counts.values())
    yield (
        f"{len(rows)} networks; pruned: "
        + ", ".join(f"{count} {kind}" for kind, count in counts.items())
        + (f", {other} not done" if other else "")
    )
    slow = [row for row in rows if row["forwards"] and int(row["forwards"]) > 20]
    names = ", ".join(f"{row['network']} {row['forwards']}×" for row in slow)
    yield f"more than 20 forwards to prune: {len(slow)}" + (f" ({names})" if slow else "")
    done = [row for row in rows if row["file error"]]
    equal = sum(float(row["file error"]) <= EQUAL for row in done)
    yield f"quantized and written: {len(done)}; file equal to the simulation: {equal} ({equal / max(len(done), 1):.1%})"
    integer = sum(int(row["integer layers"]) for row in done)
    every = integer + sum(int(row["float layers"]) for row in done)
    yield f"convolutions and linear layers in integers: {integer} of {every} ({integer / max(every, 1):.2%})"


def line(row: dict[str, Any]) -> str:
    kept = f"{row.get('kept', ''):>6} {row.get('error', ''):>8} {row.get('seconds', ''):>6} {row.get('forwards', ''):>5}"
    file = f"{row.get('file error', ''):>8} {row.get('integer layers', '')!s:>4} {row.get('float layers', '')!s:>4}"
    told = [text for text in (row["pruned"], row["quantized"]) if text not in ("right", "yes")]
    told += [text for key in ("first layer", "reasons") if (text := row.get(key))]
    return f"{row['network']:<36} {kept} {file}  {'; '.join(told)[:160]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", help="folder that holds the packages timm and torchvision")
    parser.add_argument("--only", default="", help="parts of names, with commas between")
    parser.add_argument("--again", action="store_true", help="also those that the CSV has of this commit")
    parser.add_argument("--stages", default="prune,quantize", help="of these; the others' columns stay")
    parser.add_argument("--limit", type=int, default=600, help="seconds for one stage of one network")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the CSV")
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    timm = None if options.table else load_timm(options.path)
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    commit, rows = head.stdout.strip(), read(options.results)
    if not options.table:
        warm_up()
    wanted = [n for n in NETWORKS if any(part in n for part in options.only.split(","))]
    print(f"{'network':<36} {'kept':>6} {'error':>8} {'s':>6} {'fwds':>5} {'file':>8} {'int':>4} {'fp':>4}")
    for name in wanted:
        if not options.table and (options.again or rows.get(name, {}).get("commit") != commit):
            row: dict[str, Any] = {key: rows.get(name, {}).get(key, "") for key in COLUMNS}
            row |= {"network": name, "family": NETWORKS[name], "commit": commit}
            for stage in options.stages.split(","):
                first = COLUMNS.index("parameters" if stage == "prune" else "quantized")
                last = COLUMNS.index("forwards" if stage == "prune" else "reasons")
                row |= dict.fromkeys(COLUMNS[first : last + 1], "")
                row |= child(options, timm, name, stage)
            rows[name] = row
            write(options.results, rows)
        if name in rows:
            print(line(rows[name]), flush=True)
    print("\n" + "\n".join(totals([rows[name] for name in wanted if name in rows])))


if __name__ == "__main__":
    main()
