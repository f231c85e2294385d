"""The rules of the house: imports go down, nothing has two names, everything has its size and its place."""

import ast
import graphlib
import subprocess
import sys
import textwrap
from pathlib import Path

import grimp
import pytest

import pintsize as ps

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/pintsize"
FILES = sorted(SOURCE.rglob("*.py"))


@pytest.fixture(scope="module")
def imports():
    """Module → the modules it imports, those in functions and for type checkers included."""
    graph = grimp.build_graph("pintsize", cache_dir=None)
    found = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    del found["pintsize"]  # the list of public names, which imports when asked
    return {name: {other for other in others if other in found} for name, others in found.items()}


def test_there_is_no_circle_of_imports(imports):
    assert len(imports) > 250
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_module_has_the_name_of_a_public_function(imports):
    functions = {name for name in dir(ps) if callable(getattr(ps, name)) and not name.startswith("_")}
    assert {"prune", "train", "verify", "fixed_point"} <= functions
    assert functions.isdisjoint(name.rpartition(".")[2] for name in imports)


def test_no_file_is_named_for_nothing():
    assert {"utils", "helpers", "common", "misc"}.isdisjoint(file.stem for file in FILES)


def test_a_prefix_repeated_three_times_is_a_package():
    found = {}
    for file in FILES:
        prefix, line, _ = file.stem.partition("_")
        if line and not file.stem.startswith("_"):
            found.setdefault((file.parent, prefix), []).append(file.name)
    assert [names for names in found.values() if len(names) > 2] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_files_and_functions_have_their_size(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or node.end_lineno - body[0].lineno < 60, f"{file.name}:{node.lineno} {node.name}"


USER = """
    import pintsize as ps
    import pintsize.pruning as p

    reveal_type(ps.verify("net.onnx", ps.load("a.safetensors"), ps.data.load("digits").val).agreement)
    reveal_type(ps.profile(ps.models.create("resnet20"), None).macs)
    reveal_type(ps.show("net.onnx").layers)
    reveal_type(ps.fixed_point(ps.load("a.safetensors")).tensors)
    reveal_type(ps.prune(ps.load("a.safetensors"), None, ratio=0.5).notes)
    reveal_type(ps.train)
    reveal_type(p.prune_by_attention)
    reveal_type(ps.prune_by_layer_attention)
    reveal_type(ps.QuantizationAware())
    ps.fold_batchnorm, ps.reestimate_norms, ps.prune_by_attention
"""


def test_a_type_checker_sees_the_real_types_of_a_users_file(tmp_path):
    file = tmp_path / "user.py"
    file.write_text(textwrap.dedent(USER))
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir",
               str(ROOT / ".mypy_cache"), str(file)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    revealed = [line.partition('"')[2].rstrip('"') for line in done.stdout.splitlines() if "Revealed" in line]
    assert len(revealed) == 9
    assert not any(kind == "Any" or "Module" in kind for kind in revealed[:5]), revealed
    assert revealed[1] == "int" or revealed[1] == "builtins.int"
    assert all(kind.startswith("def (") for kind in revealed[5:8])


def test_a_public_name_leads_to_the_same_thing_as_its_package():
    for name in dir(ps):
        assert getattr(ps, name) is getattr(ps, name)
    from pintsize.pruning import prune_by_attention

    assert ps.prune_by_attention is prune_by_attention
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        _ = ps.prun


def test_former_names_of_packages_go_on_to_work():
    script = "from pintsize.prune import prune_by_attention, Sparsify; from pintsize.train import Callback\n"
    script += "import pintsize as ps\n"
    script += "assert ps.prune.__name__ == 'prune' and ps.train.__name__ == 'train'\n"
    subprocess.run([sys.executable, "-c", script], check=True)
