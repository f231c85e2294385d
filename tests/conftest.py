"""What holds for every test."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

# Before anything imports the hub's client, which reads it once: no test waits for a network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Exports make millions of small objects: looking for garbage after every 700 of them is a tenth of their time.
gc.set_threshold(50_000)


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


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of forty small pictures, each of a few soft colours, without labels."""
    folder, chance = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(40):
        corners = Image.fromarray(chance.integers(0, 256, (4, 4, 3), np.uint8))
        corners.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder
