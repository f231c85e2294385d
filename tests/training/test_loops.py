"""The guide "Your own training loop" runs: masks hold, ranges freeze, teachers teach, in loops that are not ours."""

import re
from pathlib import Path

import pytest
import torch

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "loops.md"
PARTS = {
    title: re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    for title, text in re.findall(
        r"^## (.+?)\n(.*?)(?=^## |\Z)", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
}


def told(capsys, names, *blocks):
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    return capsys.readouterr().out


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a part of the guide after what it builds upon; what it prints, and its names."""
    monkeypatch.chdir(tmp_path)

    def run(title):
        names = {"__name__": "guide"}
        plain = PARTS["Plain PyTorch"]
        if title == "Plain PyTorch":
            return told(capsys, names, *plain), names
        told(capsys, names, plain[0], 'task = ps.tasks.task_of("classification")')
        return told(capsys, names, *PARTS[title]), names

    return run


def test_plain_pytorch(run):
    printed, names = run("Plain PyTorch")
    assert len(PARTS["Plain PyTorch"]) == 4
    accuracies = [float(value) for value in re.findall(r": ([\d.]+) %$", printed, flags=re.MULTILINE)]
    assert len(accuracies) == 2
    assert min(accuracies) > 90
    assert "verified" in printed
    assert names["freezing"].frozen


@pytest.mark.parametrize(
    ("title", "package", "file"),
    [
        ("Lightning", "pytorch_lightning", "lightning.safetensors"),
        ("Hugging Face Trainer", "transformers", "trainer.onnx"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # theirs
def test_loops_of_others(run, tmp_path, title, package, file):
    pytest.importorskip(package)
    printed, names = run(title)
    accuracy, zeros = re.search(r"([\d.]+) %, (\d+)% zeros", printed).groups()
    assert float(accuracy) > 90
    assert 20 < int(zeros) < 90
    assert names["freezing"].frozen
    assert (tmp_path / file).stat().st_size
    assert all(parameter.requires_grad for parameter in names["net"].parameters())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in names["net"].modules())
