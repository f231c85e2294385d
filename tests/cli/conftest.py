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
