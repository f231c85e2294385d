import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pintsize import models
from pintsize.errors import InputError, InputTypeError, OperationError

SOURCE = """
    from torch import nn

    class Net(nn.Linear):
        def __init__(self, width=3):
            super().__init__(width, 2)

        @classmethod
        def wide(cls):
            return cls(9)

    def make_net(num_classes, in_channels=1):
        from tiny_part import WIDTH  # found only while the current directory is importable
        return nn.Linear(in_channels * WIDTH, num_classes)

    def broken():
        raise KeyError("no weights")

    def no_network():
        return 42

    built = nn.Linear(1, 1)
    number = 7
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with the user's modules, as the current directory; the modules are forgotten afterwards."""
    package = tmp_path / "tiny_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(textwrap.dedent(SOURCE))
    (tmp_path / "tiny_part.py").write_text("WIDTH = 4\n")
    (tmp_path / "tiny_needy.py").write_text("import surely_not_installed\n")
    (tmp_path / "tiny_typo.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("tiny_")]:
        del sys.modules[name]


def test_functions_classes_and_dotted_attributes() -> None:
    path = list(sys.path)
    assert models.load_factory("tiny_package.nets:make_net", num_classes=5).weight.shape == (5, 4)
    assert models.load_factory("tiny_package.nets:Net", width=6)(torch.zeros(1, 6)).shape == (1, 2)
    assert models.load_factory("tiny_package.nets:Net.wide").in_features == 9
    assert sys.path == path


@pytest.mark.parametrize("name", ["resnet18", "nets:", ":make", ""])
def test_a_name_without_both_halves(name: str) -> None:
    with pytest.raises(InputError, match=r"write package\.module:factory"):
        models.load_factory(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_nothing:make", "no module 'tiny_nothing'.*run from the folder"),
        ("tiny_package.net:make", r"no module 'tiny_package\.net'"),
        (
            "tiny_needy:make",
            "importing the module 'tiny_needy' raised ModuleNotFoundError.*surely_not_installed",
        ),
        ("tiny_typo:f", "importing the module 'tiny_typo' raised SyntaxError"),
        (".nets:make", r"importing the module '\.nets' raised TypeError"),
        ("tiny_package.nets:make_nat", r"tiny_package\.nets 'make_nat'.*'make_net'"),
        ("tiny_package.nets:Net.wid", "Net 'wid'.*'wide'"),
        ("tiny_package.nets:number.x", "'x'"),
    ],
)
def test_what_cannot_be_found_is_named(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        models.load_factory(name)


def test_options_that_do_not_fit_are_named() -> None:
    with pytest.raises(
        InputError, match=r"make_net'.*\(depth\).*parameters are \(num_classes, in_channels=1\)"
    ):
        models.load_factory("tiny_package.nets:make_net", depth=3)
    with pytest.raises(InputError, match=r"\(none\).*missing a required argument: 'num_classes'"):
        models.load_factory("tiny_package.nets:make_net")


def test_what_is_no_factory_of_networks() -> None:
    with pytest.raises(InputTypeError, match="'number' is a int, not a factory"):
        models.load_factory("tiny_package.nets:number")
    with pytest.raises(InputTypeError, match="'built' is a Linear, not a factory"):
        models.load_factory("tiny_package.nets:built")
    with pytest.raises(InputTypeError, match=r"no_network.*made a int"):
        models.load_factory("tiny_package.nets:no_network")


def test_a_factory_that_fails() -> None:
    with pytest.raises(OperationError, match=r"broken.*KeyError: 'no weights'") as caught:
        models.load_factory("tiny_package.nets:broken")
    assert isinstance(caught.value.__cause__, KeyError)


def test_current_directory_is_found_by_a_process_that_does_not_have_it() -> None:
    code = "from pintsize import models; print(models.load_factory('tiny_package.nets:Net'))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert "Net(in_features=3" in done.stdout
