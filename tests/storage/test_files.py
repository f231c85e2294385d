import errno
import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from pintsize import models
from pintsize.errors import CorruptFile, InputError, OperationError
from pintsize.pruning import prune
from pintsize.storage import atomic as storage_atomic
from pintsize.storage import network_file as files
from pintsize.storage.record import record


def network(features=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, features), nn.BatchNorm1d(features), nn.ReLU(), nn.Linear(features, 2)
    ).eval()


def test_a_file_appears_whole_with_ordinary_permissions_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / "new" / "a.txt"
    storage_atomic.write_text(path, "hé")
    assert path.read_bytes() == "hé".encode()
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OperationError, match=r"a\.txt: cannot be written \(No space left on device\)"):
        storage_atomic.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_real_full_disk(tmp_path):
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("there is no /dev/full")
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_to_a_full_device():
        with storage_atomic.atomic(path) as temporary:
            temporary.unlink()
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(b"new" * 100_000)

    with pytest.raises(OperationError, match="No space left"):
        write_to_a_full_device()
    assert path.read_text() == "old"


def test_any_failure_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way():
        with storage_atomic.atomic(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_half_done_is_removed_and_nothing_else(tmp_path):
    script = "import os, sys; from pathlib import Path; from pintsize.storage.atomic import atomic\n" \
             "with atomic(Path(sys.argv[1])) as path:\n    path.write_text('half'); os.kill(os.getpid(), 9)\n"  # fmt: skip
    deep = tmp_path / "a" / "b" / "net.onnx"
    for path in (tmp_path / "net.onnx", deep):
        subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    (tmp_path / ".hidden").write_text("a user's")
    assert len(list(deep.parent.iterdir())) == 1
    storage_atomic.remove_partial(tmp_path, ".")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a"]
    storage_atomic.remove_partial(tmp_path)
    assert list(deep.parent.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OperationError, match="cannot be written"):
        storage_atomic.write_text(tmp_path / "file" / "a.txt", "x")


def test_weights_and_record_of_a_named_network_come_back_from_the_file_alone(tmp_path):
    model = models.create("resnet-demo", in_channels=1).eval()
    images = torch.randn(2, 1, 8, 8)
    prune(model, images, ratio=0.5)
    files.save(model, tmp_path / "net.safetensors")
    same = files.load(tmp_path / "net.safetensors")
    assert record(same) == record(model)
    assert not same.training
    with torch.no_grad():
        assert torch.equal(same(images), model(images))


def test_the_smallest_file_is_saved_and_loaded_by_its_suffix(tmp_path):
    model, x = network(), torch.randn(5, 3)
    files.save(model, tmp_path / "net.pint")
    assert torch.equal(files.load(tmp_path / "net.pint", model=network())(x), model(x))
    tensors, document = files.read_tensors(tmp_path / "net.pint")
    assert tensors.keys() == model.state_dict().keys()
    assert document["steps"] == []


def test_any_network_comes_back_with_its_plain_form(tmp_path):
    model, x = network(), torch.randn(5, 3)
    files.save(model, tmp_path / "net.safetensors")
    plain = network()
    nn.init.zeros_(plain[0].weight)
    assert torch.equal(files.load(tmp_path / "net.safetensors", model=plain)(x), model(x))
    with pytest.raises(InputError, match="does not say which network it holds; pass model="):
        files.load(tmp_path / "net.safetensors")


def test_a_tied_weight_is_stored_once_and_stays_equal(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    files.save(model, tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", framework="pt") as stored:
        assert list(stored.keys()) == ["0.weight"]
    plain = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    loaded = files.load(tmp_path / "net.safetensors", model=plain)
    assert torch.equal(loaded[1].weight, model[0].weight)


def test_a_plain_state_dict_loads_without_its_module_prefix(tmp_path):
    model = network()
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "n.th")
    loaded = files.load(tmp_path / "n.th", model=network())
    assert torch.equal(loaded[0].weight, model[0].weight)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["PINTSIZE_TEST_EVIL"],)


def test_pickled_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PINTSIZE_TEST_EVIL", str(tmp_path / "made"))
    (tmp_path / "n.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save({"a": Evil()}, tmp_path / "m.pt")
    for name in ("n.pt", "m.pt"):
        with pytest.raises(CorruptFile, match="holds more than a plain state dict"):
            files.load(tmp_path / name, model=network())
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_truncated_files_are_refused(tmp_path, keep):
    path = tmp_path / "net.safetensors"
    files.save(network(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptFile, match=r"net\.safetensors: it is not a whole safetensors file"):
        files.load(path, model=network())


def test_a_flipped_bit_in_the_weights_is_noticed(tmp_path):
    path = tmp_path / "net.safetensors"
    files.save(network(), path)
    content = bytearray(path.read_bytes())
    content[-2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match="do not match their checksum"):
        files.load(path, model=network())


def with_document(path, change):
    """Write the network's file with its document changed."""
    files.save(network(), path)
    with safe_open(path, framework="pt") as stored:
        document = json.loads(stored.metadata()["pintsize"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    change(document)
    save_file(tensors, path, metadata={"pintsize": json.dumps(document)})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.update(steps=None), "not a pintsize record"),
        (lambda d: d.update(aliases=[]), "its metadata is not pintsize's"),
        (lambda d: d.update(aliases={"x": "y"}), "tensor x stands for y, which is missing"),
        (lambda d: d.pop("sha256"), "do not match their checksum"),
    ],
)
def test_damaged_documents_are_refused(tmp_path, change, match):
    with_document(tmp_path / "n.safetensors", change)
    with pytest.raises(CorruptFile, match=match):
        files.load(tmp_path / "n.safetensors", model=network())


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (3, "does not say|not a name with options"),
        ({"name": "resnet18"}, "not a name with options"),
        ({"name": "resnet19", "options": {}}, "did you mean 'resnet18'"),
        ({"name": "resnet18", "options": {"depth": 3}}, "model options do not fit"),
    ],
)
def test_a_document_that_names_an_impossible_network(tmp_path, made, match):
    with_document(tmp_path / "n.safetensors", lambda document: document.update(model=made))
    with pytest.raises(InputError, match=match):
        files.load(tmp_path / "n.safetensors")


def test_a_network_that_does_not_fit_is_refused_by_tensor_and_left_alone(tmp_path):
    files.save(network(4), tmp_path / "n.safetensors")
    other = network(6)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(InputError, match=r"tensor 0\.bias: its shape is \(4,\), the model's is \(6,\)"):
        files.load(tmp_path / "n.safetensors", model=other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    with pytest.raises(InputError, match="is missing"):
        files.load(tmp_path / "n.safetensors", model=nn.Sequential(network(4), nn.Linear(2, 2)))


def test_suffixes_and_paths_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        files.load(tmp_path / "none.safetensors")
    (tmp_path / "n.bmp").write_bytes(b"x")
    with pytest.raises(InputError, match=r"suffix '\.bmp' is not one that load reads"):
        files.load(tmp_path / "n.bmp")
    with pytest.raises(InputError, match=r"suffix '\.bmp' is not one that save writes"):
        files.save(network(), tmp_path / "n.bmp")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CorruptFile, match="does not hold a dictionary of tensors"):
        files.load(tmp_path / "list.pt", model=network())


def test_a_record_whose_name_is_damaged_is_no_other_tools_file(tmp_path):
    path = tmp_path / "net.safetensors"
    files.save(nn.Linear(4, 3), path)
    content = path.read_bytes()
    assert content.count(b'"pintsize":') == 1
    path.write_bytes(content.replace(b'"pintsize":', b'"pintsizd":'))
    with pytest.raises(CorruptFile, match="damaged"):
        files.load(path, model=nn.Linear(4, 3))
