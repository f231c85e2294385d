"""What `import pintsize` takes on top of `import torch`, and the command line's help: whole processes, in turns.

python benchmarks/start_up.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

PROGRAMS = {
    "import torch": "import torch",
    "import torch, pintsize": "import torch, pintsize",
    "import torch, pintsize.recipe.options": "import torch, pintsize.recipe.options",
    "pintsize --help": "import sys; sys.argv = ['pintsize', '--help']\nfrom pintsize.cli import main; main()",
}


def seconds(program: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    for program in PROGRAMS.values():
        seconds(program)  # files into the system's cache
    times = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, program in PROGRAMS.items():
            times[name].append(seconds(program))
    torch = statistics.median(times["import torch"])
    print(f"{'':40s} {'median':>9s} {'on top of torch':>16s}   ({rounds} rounds, in turns)")
    for name, found in times.items():
        median = statistics.median(found)
        print(f"{name:40s} {median:7.3f} s {median - torch:+14.3f} s")


if __name__ == "__main__":
    main()
