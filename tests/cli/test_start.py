"""The command line answers at once: nothing heavy is loaded before a verb needs it."""

import subprocess
import sys


def test_help_loads_neither_torch_nor_other_heavy_packages():
    script = (
        "import sys, pintsize.cli\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'matplotlib', 'sklearn', 'accelerate'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "sys.argv = ['pintsize', '--help']\n"
        "pintsize.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "compress" in done.stdout


def test_an_interrupted_verb_ends_with_130():
    script = (
        "import pintsize.cli, pintsize.data\n"
        "def interrupt():\n"
        "    raise KeyboardInterrupt\n"
        "pintsize.data.describe = interrupt\n"
        "pintsize.cli.main(['datasets'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_a_failed_operation_ends_with_1_and_one_line():
    script = (
        "import pintsize.cli, pintsize.data\n"
        "from pintsize.errors import OperationError\n"
        "def fail():\n"
        "    raise OperationError('the disk', 'it is full', 'make room')\n"
        "pintsize.data.describe = fail\n"
        "pintsize.cli.main(['datasets'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "pintsize: the disk: it is full; make room\n"
