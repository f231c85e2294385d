"""Truncated, damaged, oversized and hostile files of every format: a clear error, or the right network.

200 mutations of each; `make nightly` makes 10,000 (PINTSIZE_MUTATIONS).
"""

import importlib.util
import json
import os
import random
import struct

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize import errors
from pintsize.deploy import export, open_runtime

MUTATIONS = int(os.environ.get("PINTSIZE_MUTATIONS", "200"))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    ).eval()


def needs(module):
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"the extra '{module}' cannot be installed here")


def mutated(content, generator):
    """Cut, flip, overwrite, repeat, insert or append; never the content itself."""
    while True:
        found = bytearray(content)
        for _ in range(generator.choice((1, 1, 2, 5))):
            at = generator.randrange(max(1, len(found)))
            kind = generator.randrange(7)
            if kind == 0:
                del found[at:]
            elif kind == 1 and found:
                found[at] ^= 1 << generator.randrange(8)
            elif kind == 2:
                found[at : at + 16] = generator.randbytes(16)
            elif kind == 3:
                found[at : at + 8] = generator.choice((b"\xff" * 8, b"\x00" * 8, struct.pack("<Q", 2**40)))
            elif kind == 4:
                found[at:at] = found[at : at + generator.randrange(1, 200)]
            elif kind == 5:
                found += generator.randbytes(generator.randrange(1, 5000))
            elif found:
                del found[at : at + generator.randrange(1, 50)]
        if bytes(found) != content:
            return bytes(found)


def sealed(path, images):
    with open_runtime(path, threads=1) as runtime:
        runtime(images)


def loaded(path, images):
    model = ps.load(path, model=network())
    with torch.no_grad():
        return model(images)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("net.onnx", sealed),
        pytest.param("net.xml", sealed, marks=needs("openvino")),
        pytest.param("net.bin", sealed, marks=needs("openvino")),
        pytest.param("net.pte", sealed, marks=needs("executorch")),
        ("net.pint", loaded),
    ],
)
def test_no_mutation_of_a_deployed_file_passes(tmp_path, name, how):
    path, images = tmp_path / name, torch.zeros(1, 3, 8, 8)
    opened = path.with_suffix(".xml") if path.suffix == ".bin" else path
    export(network(), opened, example=images)
    whole, generator = path.read_bytes(), random.Random(0)
    how(opened, images)
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(whole, generator))
        with pytest.raises(errors.InputError):  # CorruptFile is one
            how(opened, images)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_no_mutation_of_saved_weights_gives_a_wrong_network(tmp_path, suffix):
    """A plain state dict has no checksum of its weights: there a changed number may pass, nothing else."""
    path, images, model = tmp_path / f"net.{suffix}", torch.ones(1, 3, 8, 8), network()
    ps.save(model, path) if suffix == "safetensors" else torch.save(model.state_dict(), path)
    whole, generator = path.read_bytes(), random.Random(1)
    expected = loaded(path, images)
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(whole, generator))
        try:
            found = loaded(path, images)
        except errors.InputError:
            continue
        assert found.shape == expected.shape
        if suffix == "safetensors":
            assert torch.equal(found, expected)


def test_mutated_records_are_refused_or_carried_out(tmp_path):
    """The weights and their checksum are right; what was done to the network is not what the file says."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    path, images = tmp_path / "net.safetensors", torch.randn(8, 3, 32, 32)
    model = ps.models.create("resnet-demo", num_classes=10).eval()
    ps.prune(model, images[:1], ratio=0.3)
    ps.quantize(model, calibration=[images])
    ps.save(model, path)
    with safe_open(path, framework="pt") as file:
        text = file.metadata()["pintsize"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    generator = random.Random(2)
    for _ in range(max(20, MUTATIONS // 10)):
        document = json.loads(text)
        _change(document, generator)
        save_file(tensors, path, metadata={"pintsize": json.dumps(document)})
        try:
            found = ps.load(path)
        except errors.PintsizeError:
            continue
        assert found.state_dict().keys() == tensors.keys() | document["aliases"].keys()


def _change(document, generator):
    """One value somewhere in nested lists and dictionaries becomes another."""
    while True:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not keys:
            return
        key = generator.choice(keys)
        if not isinstance(document[key], dict | list) or generator.random() < 0.1:
            document[key] = generator.choice(
                (None, -1, 10**12, 0.5, "x", [], {}, [[]], True, "__import__('os')")
            )
            return
        document = document[key]


def test_an_oversized_file_of_nothing(tmp_path):
    for suffix in ("onnx", "pint", "safetensors", "pth"):
        path = tmp_path / f"net.{suffix}"
        with path.open("wb") as file:
            file.truncate(2**30)  # sparse: no disk is used
        with pytest.raises(errors.InputError):
            ps.load(path, model=network()) if suffix != "onnx" else open_runtime(path)


def test_a_header_that_asks_for_much_memory(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (tmp_path / "net.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(errors.CorruptFile):
        ps.load(tmp_path / "net.safetensors", model=network())
    (tmp_path / "net.safetensors").write_bytes(struct.pack("<Q", 2**62) + header)
    with pytest.raises(errors.CorruptFile):
        ps.load(tmp_path / "net.safetensors", model=network())
