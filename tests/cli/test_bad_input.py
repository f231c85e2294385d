"""Bad input from the shell: the exit code, and one line that names the object, the cause and the remedy."""

import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import pintsize as ps

PINTSIZE = Path(sys.executable).with_name("pintsize")
DIGITS = ["--data", "digits", "--limit", "100"]
QUICK = [*DIGITS, "--epochs", "1", "--precision", "fp32"]
RUN = [*QUICK, "--ratio", "0.5", "--recover-epochs", "0"]

NETWORKS = """
from torch import nn

class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
    def forward(self, x):
        raise KeyError("lost")

class OneSize(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 28 * 28, 10))
"""


@contextlib.contextmanager
def full_disk(limit):
    """Files of this process grow no further than `limit` bytes: to a process this is what a full disk is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def complaint(*args, folder, code, limit):
    """The one line on standard error of a process in `folder`, whose files grow no further than `limit` bytes."""
    done = subprocess.run(
        [str(PINTSIZE), *map(str, args)], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return one_line(done.stderr)


def one_line(text):
    lines = [line for line in text.splitlines() if not line.startswith("epoch ")]
    assert len(lines) == 1, text
    assert lines[0].startswith("pintsize: ")
    return lines[0]


@pytest.fixture
def refused(place, called):
    """The same within this process."""

    def run(*args, code=2):
        return one_line(called(*args, folder=place, code=code).err)

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Networks and files, sound ones and damaged ones."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "mine.py").write_text(NETWORKS)
    torch.manual_seed(0)
    ps.save(ps.models.create("resnet-demo", in_channels=1), folder / "net.safetensors")
    whole = (folder / "net.safetensors").read_bytes()
    (folder / "short.safetensors").write_bytes(whole[:-100])
    (folder / "flipped.safetensors").write_bytes(whole[:-5] + bytes([whole[-5] ^ 64]) + whole[-4:])
    (folder / "weights.pth").write_bytes(b"garbage")
    (folder / "train.ckpt").write_bytes(b"pintsize checkpoint 1\ngarbage")
    (folder / "file").write_bytes(b"")
    (folder / "folder.pint").mkdir()
    for name in ("full", "empty"):
        (folder / "photos" / name).mkdir(parents=True)
    for number in range(3):
        Image.new("L", (8, 8), number).save(folder / "photos" / "full" / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["compress", "--model", "resnet19", *RUN], ["resnet19", "did you mean 'resnet18'"]),
        (["compress", "--model", "mine:Lost", *RUN], ["mine", "Lost", "'OneSize'|Raises|choose one of"]),
        (["compress", "--model", "nowhere:net", *RUN], ["nowhere", "there is no module"]),
        (["compress", "--model", "resnet-demo", "--data", "digit", "--ratio", "0.5"], ["digit", "did you mean 'digits'"]),
        (["compress", "--model", "resnet-demo", *RUN, "--importance", "l3"], ["l3", "did you mean"]),
        (["compress", "--model", "resnet-demo", *RUN, "--method", "mean"], ["method 'mean'", "mse"]),
        (["compress", "--model", "resnet-demo", *DIGITS, "--ratio", "1"], ["ratio = 1", "less than 1", "Fraction"]),
        (["prune", "--model", "net.safetensors", *DIGITS, "--ratio", "-0.1"], ["ratio = -0.1", "greater than"]),
        (["profile", "--model", "short.safetensors", *DIGITS[:2]], ["short.safetensors", "not a whole", "restore it"]),
        (["profile", "--model", "flipped.safetensors", *DIGITS[:2]], ["flipped.safetensors", "checksum", "restore it"]),
        (["train", "--model", "resnet-demo", *QUICK, "--model-weights", "weights.pth"], ["weights.pth", "state dict"]),
        (["train", "--model", "resnet-demo", *QUICK, "--checkpoint", "train.ckpt"], ["train.ckpt", "checksum", "remove it"]),
        (["train", "--model", "net.safetensors", *QUICK, "--image-size", "3"], ["image_size=3", "at least 4"]),
        (["train", "--model", "resnet-demo", *QUICK, "--out", "net.onnx"], ["net.onnx", "suffix", ".safetensors"]),
        (["train", "--model", "resnet-demo", "--data", "imagefolder:photos"], ["photos/empty", "no pictures", "remove"]),
        (["train", "--model", "resnet-demo", "--data", "imagefolder:nowhere"], ["nowhere", "no such folder"]),
    ],
    ids=lambda value: None if isinstance(value[0], str) and len(value) < 5 else value[0] + " " + value[-1],
)  # fmt: skip
def test_input_that_can_be_mended_is_code_2(refused, args, words):
    message = refused(*args)
    for word in words:
        assert any(choice in message for choice in word.split("|")), message


@pytest.mark.parametrize(
    "verb",
    [
        ["cluster", "--data", "digits", "--epochs", "1"],
        ["fixed-point", "--data", "digits"],
        ["sparsify", "--density", "0.5", "--data", "digits", "--epochs", "1"],
        ["rounds", "--data", "digits", "--ratios", "0.1"],
        ["scan", "--data", "digits"],
    ],
    ids=lambda verb: verb[0],
)
def test_a_place_that_cannot_be_written_to_is_told_before_any_work(refused, monkeypatch, verb):
    monkeypatch.setattr("pintsize.cli.loading.load_data", lambda *_, **__: pytest.fail("work was done"))
    command = [*verb, "--model", "net.safetensors", "--out"]
    if verb[0] != "scan":
        assert ".safetensors or .pint" in refused(*command, "net.onnx")
    assert "it is a folder" in refused(*command, "photos" if verb[0] == "scan" else "folder.pint")
    assert "cannot be written" in refused(*command, "file/net.safetensors", code=1)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["profile", "--model", "mine:Raises", *DIGITS[:2]], ["Raises", "KeyError", "lost"]),
        (["train", "--model", "mine:Raises", *QUICK], ["its forward fails", "KeyError: 'lost'", "1 channels of 8×8"]),
        (["compress", "--model", "mine:Raises", *RUN], ["its forward fails", "KeyError: 'lost'"]),
        (["compress", "--model", "mine:OneSize", *RUN], ["[2, 1, 8, 8]", "3136", "must take 1 channels of 8×8 pixels"]),
    ],
)  # fmt: skip
def test_a_network_whose_forward_fails_is_code_1(refused, args, words):
    message = refused(*args, code=1)
    assert all(word in message for word in words), message


def test_an_exported_file_names_the_size_it_takes(place, refused):
    ps.export(ps.load(place / "net.safetensors"), place / "net.onnx", example=torch.zeros(1, 1, 8, 8))
    message = refused("verify", "net.onnx", "--model", "net.safetensors", *DIGITS, "--image-size", 16)
    assert "[any, 1, 8, 8]" in message
    assert "1, 16, 16]" in message


def test_a_missing_data_set_says_where_it_was_looked_for_and_how_to_get_it(place, refused, monkeypatch):
    monkeypatch.setenv("PINTSIZE_DATA", str(place / "sets"))
    message = refused("train", "--model", "resnet20", "--data", "cifar10")
    for word in (
        place / "sets" / "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        "cs.toronto.edu",
        "PINTSIZE_DATA",
    ):
        assert str(word) in message


@contextlib.contextmanager
def read_only(folder):
    """A folder in which nothing can be made, for the superuser too where the file system can say so."""
    folder.mkdir()
    folder.chmod(0o555)
    immutable = os.geteuid() == 0
    if immutable and subprocess.run(["chattr", "+i", folder], capture_output=True, check=False).returncode:
        pytest.skip("the superuser may write everywhere here")
    try:
        yield folder
    finally:
        if immutable:
            subprocess.run(["chattr", "-i", folder], check=True)
        folder.chmod(0o755)


def test_a_read_only_folder_is_told_before_anything_is_trained(refused, tmp_path):
    with read_only(tmp_path / "locked") as locked:
        for args in (
            ["train", "--model", "resnet-demo", *QUICK, "--out", locked / "x.safetensors"],
            ["train", "--model", "resnet-demo", *QUICK, "--checkpoint", locked / "x.ckpt"],
            ["train", "--model", "resnet-demo", *QUICK, "--log-dir", locked / "logs"],
            [
                "prune",
                "--model",
                "net.safetensors",
                *DIGITS,
                "--ratio",
                0.3,
                "--out",
                locked / "x.safetensors",
            ],
            ["export", "--model", "net.safetensors", *DIGITS[:2], "--out", locked / "x.onnx"],
            ["compress", "--model", "resnet-demo", *RUN, "--out", locked],
            ["compress", "--model", "resnet-demo", *RUN, "--out", locked / "run"],
        ):
            message = refused(*args, code=1)
            assert str(locked) in message
            assert "cannot be written" in message
            assert "choose a" in message


@pytest.mark.parametrize(
    ("args", "left"),
    [
        (["prune", "--model", "net.safetensors", *DIGITS, "--ratio", "0.1", "--out"], "old.safetensors"),
        (["train", "--model", "resnet-demo", *QUICK, "--out"], "old.safetensors"),
        (["train", "--model", "resnet-demo", *QUICK, "--out", "x.safetensors", "--checkpoint"], "none.ckpt"),
        (["export", "--model", "net.safetensors", *DIGITS[:2], "--out"], "old.onnx"),
    ],
)  # fmt: skip
def test_a_full_disk_leaves_the_old_file_and_no_rest(place, refused, args, left):
    old = b"the old one"
    if not left.startswith("none"):
        (place / left).write_bytes(old)
    before = sorted(path.name for path in place.iterdir())
    with full_disk(100_000):
        message = refused(*args, left, code=1)
    assert left in message
    assert "File too large" in message
    assert sorted(path.name for path in place.iterdir()) == before
    if not left.startswith("none"):
        assert (place / left).read_bytes() == old


@pytest.mark.parametrize("size", [64, 100_000])
def test_a_run_on_a_full_disk_says_so(place, refused, tmp_path, size):
    with full_disk(size):
        message = refused("compress", "--model", "resnet-demo", *RUN, "--out", tmp_path / "run", code=1)
    assert str(tmp_path / "run") in message
    assert "cannot be written (File too large)" in message
    assert not list((tmp_path / "run").rglob("*.onnx"))


def test_training_curves_on_a_full_disk(place, tmp_path):
    for size in (64, 150):
        message = complaint(
            "train", "--model", "resnet-demo", *QUICK, "--log-dir", tmp_path, "--out", tmp_path / "x.safetensors",
            folder=place, code=1, limit=size,
        )  # fmt: skip
        assert "events.out.tfevents" in message
        assert "File too large" in message
