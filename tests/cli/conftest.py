"""Verbs within this process, which has PyTorch loaded: what a process does on top is in test_commands.py."""

import pytest

from pintsize.cli import main


@pytest.fixture
def called(monkeypatch, capsys):
    """Calls a verb in a folder: what it prints, and what it complains of."""

    def run(*args, folder, code=0):
        monkeypatch.chdir(folder)
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        printed = capsys.readouterr()
        assert ended.value.code == code, printed.err
        return printed

    return run


@pytest.fixture
def pintsize(called, monkeypatch):
    """Calls a verb in a folder: what it prints, or what it complains of if `code` is not 0."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*args, folder, code=0):
        printed = called(*args, folder=folder, code=code)
        return printed.out if code == 0 else printed.err

    return run
