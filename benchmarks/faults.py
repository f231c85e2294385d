"""SIGKILL at random moments of a compression or a sweep, then start again: are the final files those of an undisturbed run?

python benchmarks/faults.py --what compress --kills 50
python benchmarks/faults.py --what sweep --kills 50
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
SWEEP = "recipe: {}\ngrid: {quantize.weights: [8, 4]}\n"


def command(what, folder):
    pintsize = [sys.executable, "-c", "from pintsize.cli import main; main()"]
    if what == "compress":
        return [*pintsize, "compress", *OPTIONS, "--out", str(folder)]
    file = folder.parent / "sweep.yaml"
    file.write_text(SWEEP)
    return [*pintsize, "sweep", str(file), *OPTIONS, "--out", str(folder), "--engine", "serial"]


def start(what, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder.parent / "output.txt").open("ab") as output:
        return subprocess.Popen(command(what, folder), stdout=output, stderr=output, env=environment)


def digests(folder):
    """Of the networks, their files to deploy and their records; not of what holds times."""
    files = [f for pattern in ("*.safetensors", "*.onnx", "record.json") for f in sorted(folder.rglob(pattern))
             if "checkpoints" not in f.parts and "shared" not in f.parts]  # fmt: skip
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("compress", "sweep"), default="compress")
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
        same = process.returncode == 0 and digests(folder) == whole
        finished += 1
        lost += not same
        if not same:
            print((root / "output.txt").read_text()[-2000:], file=sys.stderr)
        shutil.rmtree(folder)
    print(json.dumps({"what": given.what, "seconds_undisturbed": round(seconds, 1), "kills": kills, "finished": finished,
                      "lost": lost, "files_compared": len(whole)}))  # fmt: skip
    shutil.rmtree(root)
    sys.exit(lost > 0)


if __name__ == "__main__":
    main()
