"""A criterion, an op rule and a technique of one's own, from outside, through the public registries alone."""

import importlib
import json
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize import deploy, graph
from pintsize.cli import main
from pintsize.deploy.options import ExportInfo, Made
from pintsize.deploy.runtime import Closing, like_input
from pintsize.pruning import criterion

SECTION = '''
"""The options of `soften`: declared once."""

from pydantic import Field

from pintsize.recipe.section import Section, section


@section("soften", title="Softer logits", about="Softer logits; left out, they stay.", place=55, own=())
class SoftenSection(Section):
    """The classifier's weights are scaled."""

    factor: float = Field(default=0.5, gt=0)
    """What they are multiplied by."""
'''
STAGE = '''
"""The stage of `soften`."""

import torch

from pintsize.run.stages.stages import Stage, stage


def soften(model, factor):
    """Scale the weights of the last linear layer, in place."""
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight *= factor


@stage
class Soften(Stage):
    name, place, section = "soften", 55, "soften"

    def file(self, recipe):
        return "softened.safetensors"

    def forms(self, recipe, kind):
        return [(f"{kind} softened", "softened")]

    def make(self, run, key):
        model = run.before(self)
        soften(model, run.recipe.soften.factor)
        return run.keep(model, self.file(run.recipe))
'''
VERB = '''
"""The verb `soften`."""

from pathlib import Path

from pintsize.cli.inputs import Inputs, Out
from pintsize.cli.verbs import Given, Told, told, verb


@verb(place=43, data="optional", section="soften")
def soften(*, inputs: Inputs, given: Given, out: Out = Path("softened.safetensors")) -> Told:
    """Make logits softer, and save the network."""
    import pintsize as ps

    from .stage import soften as scale

    scale(inputs.network, given.section("soften").factor)
    ps.save(inputs.network, out)
    return told({"file": out}, f"saved to {out}")
'''


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package with a technique of three files; forgotten afterwards."""
    folder = tmp_path_factory.mktemp("site") / "softening"
    folder.mkdir()
    for name, text in (("__init__", ""), ("section", SECTION), ("stage", STAGE), ("verb", VERB)):
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    from pintsize.cli.verbs import VERBS
    from pintsize.recipe.section import SECTIONS
    from pintsize.run.stages.stages import STAGES

    before = [(registry, dict(registry)) for registry in (VERBS, SECTIONS, STAGES)]
    sys.path.insert(0, str(folder.parent))
    for name in ("section", "stage", "verb"):
        importlib.import_module(f"softening.{name}")
    yield
    sys.path.remove(str(folder.parent))
    for registry, entries in before:
        for name in registry.keys() - entries.keys():
            registry.remove(name)


def test_a_technique_is_a_section_a_stage_and_options_of_compress(package, tmp_path):
    options = {"epochs": 1, "limit": 60, "precision": "fp32", "recipe": {"quantize": None}, "progress": False}
    found = ps.compress("resnet-demo", "digits", out=tmp_path / "run", soften_factor=0.25, **options)
    assert [row["name"] for row in found.stages] == ["dense fp32", "dense softened"]
    dense = ps.load(tmp_path / "run/dense.safetensors")
    (last,) = [name for name, module in dense.named_modules() if isinstance(module, nn.Linear)]
    weights = [network.get_submodule(last).weight for network in (found.model, dense)]
    torch.testing.assert_close(weights[0], weights[1] * 0.25)
    assert "soften:\n  factor: 0.25" in (tmp_path / "run/recipe.yaml").read_text()


def test_its_options_are_checked_and_explained_like_all_others(package, tmp_path):
    with pytest.raises(
        ps.errors.InputError, match=r"soften\.factor = 0.*greater than 0; it means: What they are"
    ):
        ps.compress("resnet-demo", "digits", out=tmp_path / "run", soften_factor=0)
    with pytest.raises(ps.errors.InputError, match="did you mean factor"):
        ps.compress("resnet-demo", "digits", out=tmp_path / "run", recipe={"soften": {"facto": 1}})


def test_it_is_a_verb_with_the_same_options(package, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ps.save(ps.models.create("resnet-demo", in_channels=1), "net.safetensors")
    with pytest.raises(SystemExit) as ended:
        main(["soften", "--model", "net.safetensors", "--factor", "0.5"])
    assert (ended.value.code, capsys.readouterr().out) == (0, "saved to softened.safetensors\n")
    with pytest.raises(SystemExit) as ended:
        main(["soften", "--help"])
    assert "What they are multiplied by (default 0.5)" in " ".join(capsys.readouterr().out.split())


def test_a_criterion():
    @criterion("first-weight")
    def first_weight(member, statistics):
        values = statistics.parameter(member.parameter)
        return values.flatten(1)[member.indices[:, 0], 0] if member.produces and member.dim == 0 else None

    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([3.0, 1.0, 4.0, 2.0]).view(4, 1, 1, 1))
    ps.prune(model, torch.randn(1, 1, 4, 4), ratio=0.5, importance="first-weight", scope="local", round_to=1)
    assert model[0].weight.flatten().tolist() == [3.0, 4.0]


def test_an_op_rule():
    library = torch.library.Library("extension_of_a_test", "DEF")
    library.define("swap_rows(Tensor x) -> Tensor")
    library.impl("swap_rows", lambda x: x.flip(2), "CompositeExplicitAutograd")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.last(torch.ops.extension_of_a_test.swap_rows(self.first(x)))

    image = torch.randn(1, 1, 4, 4)
    with pytest.raises(ps.errors.UnsupportedOp, match="swap_rows"):
        ps.prune(Net(), image, ratio=0.5)

    @graph.rule(torch.ops.extension_of_a_test.swap_rows)
    def swap_rows(op, labels):
        labels.set(op.outputs[0], labels.of(op.inputs[0]))

    model = Net()
    ps.prune(model, image, ratio=0.5)
    assert model.first.out_channels == 2


class TextRuntime(Closing):
    """Runs the `.txt` files of `make_text`."""

    backend = "text"

    def __init__(self, path, *, threads):
        self.path, self.threads = Path(path), threads
        self.weight = torch.tensor(json.loads(self.path.read_text()))
        self.input_shape = (None, self.weight.shape[1])

    def __call__(self, *inputs):
        return like_input([(torch.as_tensor(inputs[0]) @ self.weight.T).numpy()], inputs[0])

    def close(self):
        pass


def make_text(model, path, options, *, off=0.0):
    weight = (model.weight + off).tolist()
    content = json.dumps(weight).encode()
    args = options.args(model)
    return Made({path: content}, ExportInfo(path, "text", len(content), tuple(args[0].shape)), model, args)


@pytest.fixture
def text():
    """The format and its runtime, forgotten afterwards."""
    deploy.WRITERS.add(".txt", make_text)
    deploy.RUNTIMES.add("text", deploy.Backend(TextRuntime, (".txt",)))
    yield
    deploy.WRITERS.remove(".txt")
    deploy.RUNTIMES.remove("text")


def test_a_format_and_a_runtime(text, tmp_path):
    model, images = nn.Linear(3, 2, bias=False).eval(), torch.randn(5, 3)
    written = ps.export(model, tmp_path / "net.txt", example=images)
    assert written.checked == "text"
    torch.testing.assert_close(ps.open_runtime(tmp_path / "net.txt")(images), model(images))
    assert ps.verify(tmp_path / "net.txt", model, [images], repeats=2).agreement == 100


def test_a_file_of_ones_own_is_proved_too(text, tmp_path):
    deploy.WRITERS.add(".txt", partial(make_text, off=0.1))
    with pytest.raises(ps.errors.VerificationFailed):
        ps.export(nn.Linear(3, 2, bias=False).eval(), tmp_path / "net.txt", example=torch.randn(5, 3))
    assert not (tmp_path / "net.txt").exists()


def test_what_is_not_registered_is_unknown(tmp_path):
    with pytest.raises(ps.errors.InputError, match="no such export format"):
        ps.export(nn.Linear(3, 2), tmp_path / "net.txt", example=torch.randn(5, 3))
