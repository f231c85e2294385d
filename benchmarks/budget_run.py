"""What the network of a budget gained: its file against eager PyTorch, the fp32 file and int8 alone.

    pintsize compress --model resnet20 --data fashion-mnist --max-drop 0.5 --minimize latency --out RUN
    python benchmarks/budget_run.py RUN [RUN …]

Times are for one image, as a program that serves one network has them: ONNX Runtime's own defaults but for the number of
threads, one session open at a time, in which threads wait spinning between calls. All take turns, a few hundred calls each,
for several rounds; a ratio is taken within a round. Accuracies are the run's, on the test images. Run it on an idle machine.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import pintsize as ps

EAGER, OURS = "eager fp32", "net"
FILES = {"fp32 file": "dense.onnx", "int8 alone": "budget/quantized.onnx", OURS: "net.onnx"}
PAUSE = 0.1
"""Seconds until the threads of the one before have gone to sleep."""


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--calls", type=int, default=200)
    return parser.parse_args()


def eager(run, image, threads):
    net, image = ps.load(run / "dense.safetensors").eval(), torch.from_numpy(image)
    torch.set_num_threads(threads)

    def call():
        with torch.inference_mode():
            net(image)

    return call


def session(path, image, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {opened.get_inputs()[0].name: image}
    return lambda: opened.run(None, inputs)


def milliseconds(call, calls):
    """The median, after a tenth of the calls to warm up."""
    times = []
    for _ in range(calls + calls // 10):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times[calls // 10 :])


def rounds(run, image, threads, given):
    """One dictionary a round: name → milliseconds."""
    for _ in range(given.rounds):
        found = {}
        for name in (EAGER, *FILES):
            call = eager(run, image, threads) if name == EAGER else session(run / FILES[name], image, threads)
            found[name] = milliseconds(call, given.calls)
            del call
            time.sleep(PAUSE)
        yield found


def main():
    given = arguments()
    for run in given.runs:
        missing = [name for name in ("metrics.json", *FILES.values()) if not (run / name).is_file()]
        if missing:
            sys.exit(
                f"{run}: {', '.join(missing)} is not there: name the folder of a run that met its budget, with quantization"
            )
        metrics = json.loads((run / "metrics.json").read_text())
        first, last = metrics["stages"][0], metrics["stages"][-1]
        image = np.random.default_rng(0).standard_normal((1, *metrics["data"]["image_shape"]), dtype="f4")
        print(
            f"{run}: {metrics['budget']['chosen']}, test {first['accuracy']:.2f} → {last['accuracy']:.2f} %, "
            f"{first['bytes']:,} → {last['bytes']:,} bytes ({first['bytes'] / last['bytes']:.2f} times smaller)\n"
        )
        print("| threads | | ms | ours is as many times as fast, median | least | most |")
        print("|---:|---|---:|---:|---:|---:|")
        for threads in given.threads:
            found = list(rounds(run, image, threads, given))
            for name in found[0]:
                ratios = [each[name] / each[OURS] for each in found]
                print(
                    f"| {threads} | {name} | {statistics.median(each[name] for each in found):.4f} | "
                    f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |"
                )


if __name__ == "__main__":
    main()
