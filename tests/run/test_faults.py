"""What happens to a run when the machine fails it: full and read-only disks, clocks that are set, other processes."""

import errno
import logging
import os
import subprocess
import sys
import time

import pytest

import pintsize as ps
from pintsize.errors import OperationError
from pintsize.storage import atomic as storage_atomic
from pintsize.storage import logs
from pintsize.storage.folder import RunFolder
from pintsize.storage.locks import one_process

OPTIONS = {
    "epochs": 1,
    "limit": 100,
    "batch_size": 32,
    "precision": "fp32",
    "lr": 0.05,
    "calibration_images": 32,
}
HOLD = "import sys, time; from pathlib import Path; from pintsize.storage.locks import one_process\n" \
       "with one_process(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)\n"  # fmt: skip


def run(folder):
    return ps.compress("resnet-demo", "digits", out=folder, progress=False, **OPTIONS)


def test_a_second_process_is_refused_by_name_until_the_first_one_dies(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(OperationError, match=f"{tmp_path}: another process is running"),
            RunFolder(tmp_path).open(),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with one_process(tmp_path, wait=10):
        pass


def test_a_full_disk_ends_the_run_by_name_and_room_lets_it_go_on(tmp_path, monkeypatch):
    def fsync(handle):
        if "quantized.safetensors" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(
            OperationError, match=r"quantized\.safetensors: cannot be written \(No space left on device\)"
        ):
            run(tmp_path / "r")
    assert not list((tmp_path / "r").glob(".quantized*"))
    assert "level=ERROR" in (tmp_path / "r" / "log.txt").read_text()
    trained = (tmp_path / "r" / "dense.safetensors").stat().st_mtime_ns
    # and the clock is set back a day before it goes on: nothing of a run is decided by it
    monkeypatch.setattr(time, "time", lambda before=time.time: before() - 86_400)
    result = run(tmp_path / "r")
    assert result.path.is_file()
    assert (tmp_path / "r" / "dense.safetensors").stat().st_mtime_ns == trained


def test_a_folder_on_a_disk_that_became_read_only_is_named(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(logging.FileHandler, "_open", read_only)
    with pytest.raises(OperationError, match=r"log\.txt: it cannot be written \(Read-only file system\)"):
        run(tmp_path / "r")


def test_a_damaged_or_missing_stage_is_done_again(tmp_path):
    store, outputs = tmp_path / "shared", ["a.txt"]

    def stage(name):
        folder, calls = RunFolder(tmp_path / name, shared=store), []

        def make(_):
            calls.append(1)
            storage_atomic.write_text(folder.path / "a.txt", "made")
            return {"value": 1}

        with folder.open():
            result = folder.stage("s", inputs=1, outputs=outputs, run=make, shared=True)
        assert result == {"value": 1}
        assert (folder.path / "a.txt").read_text() == "made"
        return len(calls)

    assert [stage("one"), stage("two")] == [1, 0]
    (kept,) = store.glob("*/a.txt")
    kept.unlink()
    kept.write_text("damaged")
    assert [stage("three"), stage("four")] == [1, 0]
    (tmp_path / "four" / "a.txt").unlink()
    (tmp_path / "four" / "stages" / "s.json").write_text("{")
    assert stage("four") == 0


def test_a_run_leaves_no_handlers(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path).open():
        raise ZeroDivisionError
    assert logging.getLogger("pintsize").handlers == []
    assert "ZeroDivisionError" in (tmp_path / "log.txt").read_text()
    assert logs.without_secrets("plain") == "plain"
