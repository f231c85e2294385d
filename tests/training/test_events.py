"""Event files: what TensorBoard reads of them, and what becomes of a disk that is full."""

import sys

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from pintsize.errors import OperationError
from pintsize.training.events import EventFile


def test_tensorboard_reads_two_files_of_one_folder(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writers = [EventFile(tmp_path) for _ in range(2)]
    for step, writer in enumerate(writers):
        writer.write(
            Event(step=step, summary=Summary(value=[Summary.Value(tag="x", simple_value=step + 0.5)]))
        )
        writer.close()
    found = set()
    for file in tmp_path.glob("events.*"):
        read = EventAccumulator(str(file))
        read.Reload()
        found |= {(one.step, one.value) for one in read.Scalars("x")}
    assert found == {(0, 0.5), (1, 1.5)}


def test_a_full_disk_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 0.0)
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    monkeypatch.setattr(sys.modules[EventFile.__module__], "_NUMBERS", iter([0]))
    monkeypatch.setattr("os.getpid", lambda: 1)
    (tmp_path / "events.out.tfevents.0000000000.here.1.0").symlink_to("/dev/full")
    with pytest.raises(OperationError, match="No space left on device"):
        EventFile(tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "log").write_text("")
    with pytest.raises(OperationError, match=r"log: cannot be written \(File exists\)"):
        EventFile(tmp_path / "log")
