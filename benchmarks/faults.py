"""SIGKILL at random moments of a compression or a sweep, then start again: are the final files those of an undisturbed run?

python benchmarks/faults.py --what compress --kills 35
python benchmarks/faults.py --what sweep --kills 15
python benchmarks/faults.py --what budget --kills 15

Networks, files to deploy, records and recipes must be the same bytes; metrics and markers of stages the same apart from
times; and no file may be left that an undisturbed run does not have.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OPTIONS = ["--model", "resnet-demo", "--data", "digits", "--limit", "200", "--epochs", "6", "--batch-size", "32", "--lr",
           "0.05", "--precision", "fp32", "--recover-precision", "fp32", "--recover-epochs", "3", "--ratio", "0.5",
           "--seed", "3"]  # fmt: skip
BUDGET = [*OPTIONS[: OPTIONS.index("--ratio")], "--max-drop", "30", "--minimize", "macs", "--probes", "1",
          "--confirmations", "1", "--time-limit", "1000", "--seed", "3"]  # fmt: skip
SWEEP = "recipe: {}\ngrid: {quantize.weights: [8, 4]}\n"


def command(what, folder):
    pintsize = [sys.executable, "-c", "from pintsize.cli import main; main()"]
    if what != "sweep":
        return [*pintsize, "compress", *(OPTIONS if what == "compress" else BUDGET), "--out", str(folder)]
    file = folder.parent / "sweep.yaml"
    file.write_text(SWEEP)
    return [*pintsize, "sweep", str(file), *OPTIONS, "--out", str(folder), "--engine", "serial"]


def start(what, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder.parent / "output.txt").open("ab") as output:
        return subprocess.Popen(command(what, folder), stdout=output, stderr=output, env=environment)


TIMES = {
    "seconds",
    "least",
    "latency",
    "latency_ms",
    "relative_latency",
    "median_ms",
    "p95_ms",
    "speedup",
    "starts",
}
"""Keys of what is measured with a clock, or counts starts."""


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if key not in TIMES}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def content(file):
    """A digest; None for what is nothing but times, or holds them in a way that cannot be told apart."""
    if file.suffix == ".json":
        value = without_times(json.loads(file.read_bytes()))
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    if file.suffix in {".safetensors", ".onnx", ".pint", ".yaml"}:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return None


def digests(folder):
    """By name, of every file but the log, events of the trainings (one file a start), and the lock."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    names = {file: file.relative_to(folder) for file in files}
    return {str(name): content(file) for file, name in names.items()
            if not {"tensorboard", "log.txt"} & set(name.parts)}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("compress", "sweep", "budget"), default="compress")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance, root = random.Random(given.seed), Path(tempfile.mkdtemp())
    began = time.monotonic()
    if start(given.what, root / "whole").wait() != 0:
        sys.exit((root / "output.txt").read_text()[-2000:])
    whole, seconds = digests(root / "whole"), time.monotonic() - began
    kills = finished = lost = 0
    folder = root / "killed"
    while kills < given.kills or folder.exists():
        process = start(given.what, folder)
        try:
            # a little past the start-up, and often enough that most runs are killed several times
            process.wait(timeout=chance.uniform(0.5, seconds / 2) if kills < given.kills else 3600)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            print(f"{kills} kills, {finished} runs ended, {lost} lost", file=sys.stderr, flush=True)
            continue
        found = digests(folder)
        differing = sorted(
            name for name in found.keys() | whole.keys() if found.get(name, 0) != whole.get(name, 0)
        )
        finished += 1
        if process.returncode != 0 or differing:
            lost += 1
            print("differs:", differing, (root / "output.txt").read_text()[-2000:], file=sys.stderr)
        shutil.rmtree(folder)
    print(json.dumps({"what": given.what, "seconds_undisturbed": round(seconds, 1), "kills": kills, "finished": finished,
                      "lost": lost, "files_compared": len(whole)}))  # fmt: skip
    shutil.rmtree(root)
    sys.exit(lost > 0)


if __name__ == "__main__":
    main()
