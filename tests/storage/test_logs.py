"""The log of a run: one line an event, fields for programs, no secrets."""

import json
import logging
import re

import pytest

from pintsize.errors import OperationError
from pintsize.storage import logs

PAIR = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')


def parsed(path):
    return [
        {k: json.loads(v) if v[0] == '"' else v for k, v in PAIR.findall(line)}
        for line in path.read_text().splitlines()
    ]


@pytest.fixture
def logger():
    return logging.getLogger("pintsize.test")


def test_an_event_is_one_line_whose_fields_come_back(tmp_path, logger):
    with logs.to_file(tmp_path / "log.txt"):
        logs.event(logger, 'it said "a=b"\nand went on', stage="train", seconds=3.14159265, file="a b.onnx")
        logger.debug("not shown")
    (line,) = parsed(tmp_path / "log.txt")
    assert line["msg"] == 'it said "a=b"\nand went on'
    assert (line["stage"], line["seconds"], line["file"]) == ("train", "3.14159", "a b.onnx")
    assert (line["level"], line["logger"]) == ("INFO", "pintsize.test")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


def test_secrets_of_the_environment_and_of_urls_are_left_out(tmp_path, logger, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef123456")
    monkeypatch.setenv("SHORT_TOKEN", "data")
    monkeypatch.setenv("DB_PASSWORD", 'a "b\\c')
    with logs.to_file(tmp_path / "log.txt"):
        logs.event(logger, "data from https://me:pass@host/x with hf_abcdef123456", key="hf_abcdef123456",
                   quoted='it is a "b\\c here')  # fmt: skip
    text = (tmp_path / "log.txt").read_text()
    assert "hf_abcdef" not in text
    assert "pass" not in text
    assert 'quoted="it is *** here"' in text
    assert 'msg="data from https://***@host/x with ***"' in text


def test_a_log_of_one_part_alone_and_the_level_comes_back(tmp_path, logger):
    root = logging.getLogger("pintsize")
    before = root.level
    with logs.to_file(tmp_path / "log.txt", only=["pintsize.search.sweep"]):
        logs.event(logger, "elsewhere")
        logs.event(logging.getLogger("pintsize.search.budget"), "in a trial")
        logs.event(logging.getLogger("pintsize.search.sweep"), "here")
    assert [line["msg"] for line in parsed(tmp_path / "log.txt")] == ["here"]
    assert root.level == before
    assert root.handlers == []


@pytest.mark.parametrize(("verbosity", "shown"), [(0, []), (1, ["INFO"]), (2, ["DEBUG", "INFO"])])
def test_the_log_is_shown_as_far_as_asked_for_and_the_file_has_as_much(
    tmp_path, logger, capsys, monkeypatch, verbosity, shown
):
    root = logging.getLogger("pintsize")
    monkeypatch.setattr(root, "handlers", [])
    before = root.level
    try:
        logs.to_stderr(verbosity)
        with logs.to_file(tmp_path / "log.txt"):
            logger.debug("more")
            logger.info("a step")
    finally:
        root.setLevel(before)
    assert [line.split("level=")[1].split()[0] for line in capsys.readouterr().err.splitlines()] == shown
    assert [line["level"] for line in parsed(tmp_path / "log.txt")] == (shown or ["INFO"])


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    with (
        pytest.raises(OperationError, match="log.txt: it cannot be written"),
        logs.to_file(tmp_path / "no" / "log.txt"),
    ):
        pass


def test_a_full_disk_ends_the_log_not_the_run(logger, capfd):
    with logs.to_file(__import__("pathlib").Path("/dev/full")):
        logs.event(logger, "lost")
    assert capfd.readouterr().err == ""
