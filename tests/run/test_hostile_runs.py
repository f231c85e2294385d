"""A run folder or a network's file that a stranger prepared."""

import json
import re

import pytest

import pintsize as ps
from pintsize.errors import CorruptFile, InputError
from pintsize.storage import network_file as files
from pintsize.storage import record
from pintsize.storage.folder import RunFolder
from pintsize.storage.store import StageStore


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    outside.mkdir()
    (run / "stages").symlink_to(outside)
    with (
        pytest.raises(InputError, match=rf"stages: it is a link out of {re.escape(str(run))}, to "),
        RunFolder(run).open(),
    ):
        pass
    (run / "stages").unlink()
    (run / "figures").mkdir()
    (run / "latest").symlink_to("figures")  # within it, links are harmless
    with RunFolder(run).open():
        pass


def test_a_lock_that_is_a_link_is_not_opened(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    run, shared = tmp_path / "run", tmp_path / "shared"
    for link in (run / ".lock", shared / "key.lock"):
        link.parent.mkdir()
        link.symlink_to(precious)
    with (
        pytest.raises(InputError, match=r"run/\.lock: it is a link, to .*precious.txt.*remove the link"),
        RunFolder(run).open(),
    ):
        pass
    with pytest.raises(InputError, match=r"key\.lock: it is a link"), StageStore(shared).turn("key"):
        pass
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("name", ["../precious.txt", "/precious.txt", "a/../../precious.txt"])
def test_a_marker_cannot_have_other_files_deleted(tmp_path, name):
    precious, run = tmp_path / "precious.txt", tmp_path / "run"
    precious.write_text("x")
    (run / "stages").mkdir(parents=True)
    name = str(precious) if name[0] == "/" else name
    marker = {"key": "k", "outputs": {name: "0" * 64}, "result": {}}
    (run / "stages" / "old.json").write_text(json.dumps(marker))
    folder = RunFolder(run)
    with folder.open():
        folder.forget_others()
    assert precious.exists()


def test_a_file_cannot_ask_for_a_network_of_gigabytes(tmp_path):
    network = ps.models.create("resnet-demo", num_classes=10, in_channels=1)
    network.register_buffer(
        "long", __import__("torch").zeros(1_000_000)
    )  # so that large numbers look justified
    record.set_origin(network, "vgg16", {"num_classes": 10, "in_channels": 1_000_000})
    files.save(network, tmp_path / "n.safetensors")
    with pytest.raises(CorruptFile, match="it asks for .* parameters"):
        ps.load(tmp_path / "n.safetensors")
