"""Each Python program of the deployment guide runs as it stands, in a process of its own."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs/guides/deploy.md"
NEEDS = {'backend="openvino"': "openvino", "net.pte": "executorch"}


def test_the_programs_of_the_guide_run(tmp_path):
    programs = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(programs) == 5
    assert not re.search("torch|pintsize as", programs[1])  # the one that serves ONNX needs neither
    for program in programs:
        if any(text in program and importlib.util.find_spec(extra) is None for text, extra in NEEDS.items()):
            continue
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, f"{program}\n{done.stderr}"
        assert done.stdout.strip()
