"""What holds for every test."""

import os
import subprocess
import sys

import pytest

# Before anything imports the hub's client, which reads it once: no test waits for a network.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def launch(tmp_path):
    """Runs a script in so many processes, each with the arguments, on one thread."""

    def run(script, *arguments, processes):
        file = tmp_path / "script.py"
        file.write_text(script)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("RANK", None)
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *(torchrun if processes > 1 else []), str(file), *map(str, arguments)]
        subprocess.run(command, check=True, env=environment)

    return run
