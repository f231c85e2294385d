"""Every operation of the table in every runtime, as numbers and as integers: what torch computes, or refused by name."""

import importlib.util

import pytest
import torch
from torch import nn

import op_table
from pintsize import errors
from pintsize.deploy import export, open_runtime
from pintsize.quant import quantize

ROWS = op_table.rows()
GROUPS = sorted({(dims, side) for _, dims, side in ROWS.values()})
SUFFIXES = {"onnxruntime": "onnx", "openvino": "onnx", "executorch": "pte"}


def names(group, runtime):
    """The rows of a group that a runtime has."""
    dims, _ = group
    kept = [name for name, (_, *given) in ROWS.items() if tuple(given) == group]
    if runtime == "executorch" and dims == 3:  # which it lacks: refused, see below
        return []
    return kept


class OneFront(nn.Module):
    """Networks whose first convolution is the same one, computed once: ExecuTorch's writer takes a second a network."""

    def __init__(self, networks):
        super().__init__()
        first = networks[0][0].state_dict()
        assert all(torch.equal(first[key], net[0].state_dict()[key]) for net in networks for key in first)
        self.front = networks[0][:2]
        self.rest = nn.ModuleList(net[2:] for net in networks)

    def forward(self, x):
        x = self.front(x)
        return tuple(rest(x) for rest in self.rest)


@pytest.fixture(scope="module")
def networks():
    """Group, kind, runtime's rows, suffix → their networks together, an input, what torch computes: made once."""
    made = {}

    def make(group, kind, chosen, suffix):
        key = group, kind, tuple(chosen), suffix
        if key not in made:
            dims, side = group
            together = OneFront if suffix == "pte" else op_table.Together
            model = together([op_table.network(ROWS[name], relu=kind == "relu") for name in chosen])
            x = torch.randn(4, 3, *[side] * dims, generator=torch.Generator().manual_seed(0))
            if kind != "float":
                quantize(model.eval(), calibration=[x], example=x[:1], progress=False)
            with torch.no_grad():
                made[key] = model.eval(), x, model(x)
        return made[key]

    return make


@pytest.fixture(scope="module")
def files(networks, tmp_path_factory):
    """Group, kind, runtime's rows, suffix → their networks in one file: made once for all runtimes that read it."""
    folder, made = tmp_path_factory.mktemp("files"), {}

    def make(group, kind, chosen, suffix):
        key = group, kind, tuple(chosen), suffix
        if key not in made:
            made[key] = folder / f"{len(made)}.{suffix}"
            model, x, _ = networks(group, kind, chosen, suffix)
            export(model, made[key], example=x[:1], check=False)  # proved below, on four images
        return made[key]

    return make


@pytest.mark.parametrize("kind", ["float", "integers"])
@pytest.mark.parametrize("runtime", SUFFIXES)
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[0]}d of {group[1]}")
def test_runtimes_compute_what_torch_does(group, runtime, kind, networks, files):
    pytest.importorskip(runtime)
    chosen = names(group, runtime)
    if not chosen:
        pytest.skip("ExecuTorch has none of them")
    _, x, expected = networks(group, kind, chosen, SUFFIXES[runtime])
    path = files(group, kind, chosen, SUFFIXES[runtime])
    with open_runtime(path, backend=runtime, threads=1) as opened:
        found = opened(x)
    gaps = {
        name: float((one - other).abs().max() / other.abs().max())
        for name, one, other in zip(chosen, found, expected, strict=True)
    }
    # in integers a number at a half may round the other way: a step of the convolution behind it
    assert not {name: gap for name, gap in gaps.items() if not gap < (1e-5 if kind == "float" else 1e-2)}


@pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None, reason="the extra 'executorch' is not there"
)
def test_what_executorch_has_no_kernel_for_is_refused_by_name(tmp_path):
    model = op_table.network(ROWS["average even, 3d of 9"], relu=True)
    with pytest.raises(errors.UnsupportedOp, match=r"avg_pool3d.*neither .*kernel.*export to \.onnx"):
        export(model, tmp_path / "net.pte", example=torch.zeros(1, 3, 9, 9, 9))
    assert not (tmp_path / "net.pte").exists()
