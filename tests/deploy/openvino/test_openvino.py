"""OpenVINO: the same file, the same numbers, integer kernels; its own format."""

import subprocess
import sys

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from pintsize import errors
from pintsize.deploy import export, integer_nodes, open_runtime, verify
from pintsize.deploy.openvino.graph import prepared
from pintsize.deploy.openvino.runtime import core
from pintsize.quant import quantize

pytest.importorskip("openvino", reason="the extra 'openvino' cannot be installed here")
EXAMPLE = torch.zeros(1, 3, 16, 16)


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_file_computes_what_the_model_does_in_integers(parts, images, tmp_path, suffix, bits):
    torch.manual_seed(0)
    model = parts["residual"](bits=bits).eval()
    path = export(model, tmp_path / f"net.{suffix}", example=EXAMPLE).path
    with torch.no_grad():
        expected = model(images)
    with open_runtime(path, backend="openvino", threads=1) as runtime:
        assert (runtime.backend, runtime.input_shape) == ("openvino", (None, 3, 16, 16))
        found = runtime(images)
    step = 0.004 * model.fc.weight.abs().amax().item()
    assert (found - expected).abs().max() < 8 * step
    nodes = integer_nodes(path, backend="openvino")
    assert nodes["integer"]["Convolution"] == 2
    assert nodes["float"] == {}


def test_what_a_convolution_gives_is_rounded_before_a_sum(parts, tmp_path):
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.q1, self.q2 = (
                parts["fake"](0.03, 128),
                parts["fake"](0.05, 100),
                parts["fake"](0.013),
            )
            self.conv1, self.conv2 = (parts["conv"](3, 3, 3, padding=1) for _ in range(2))

        def forward(self, x):
            x = self.q(x)
            x = self.q2(torch.relu(self.q1(self.conv1(x)) + x))
            return self.q1(self.conv2(x))

    torch.manual_seed(0)
    model, x = Sum().eval(), torch.randn(8, 3, 16, 16)
    path = export(model, tmp_path / "net.onnx", example=x[:1]).path
    with torch.no_grad():
        wrong = (open_runtime(path, backend="openvino", threads=1)(x) - model(x)).abs() > 0.025
    assert wrong.float().mean() < 0.01
    before, after = onnx.load(path), onnx.load_from_string(prepared(path.read_bytes()))
    kinds = [node.op_type for node in after.graph.node]
    assert kinds.count("Round") == 1
    assert kinds.count("QuantizeLinear") == [n.op_type for n in before.graph.node].count("QuantizeLinear") - 1
    onnx.checker.check_model(after, full_check=True)


def pooled(pool: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), pool, nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(512, 10)
    )


class Branches(nn.Module):
    """As in Inception: a tensor, its average pool and the input, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.join, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(19, 8, 1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = torch.cat([y, nn.functional.avg_pool2d(y, 3, 1, 1), x], 1)
        return self.fc(torch.relu(self.join(y)).mean((2, 3)))


class Attention(nn.Module):
    """Patches, attention on them behind a norm, and the mean over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 16, 4, stride=4), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        z = self.norm(y)
        return self.fc((y + self.attention(z, z, z, need_weights=False)[0]).mean(1))


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
@pytest.mark.parametrize(
    ("make", "convolutions"),
    [
        (lambda: pooled(nn.AvgPool2d(3, 1, 1)), 2),
        (lambda: pooled(nn.AvgPool2d(3, 1, 1, count_include_pad=False)), 2),
        (lambda: pooled(nn.MaxPool2d(3, 1, 1)), 2),
        (Branches, 2),
        (Attention, 1),
    ],
    ids=["average", "average without padding", "maximum", "branches", "attention"],
)
def test_pools_that_pad_and_means_of_tokens(make, convolutions, suffix, tmp_path):
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(64, 3, 8, 8)
    quantize(model, calibration=[x])
    with torch.no_grad():
        expected = model(x)
    path = export(model, tmp_path / f"net.{suffix}", example=x[:2]).path
    with open_runtime(path, backend="openvino", threads=1) as runtime:
        found = runtime(x)
    assert (
        found - expected
    ).norm() < 0.002 * expected.norm()  # a few numbers at .5 steps may round the other way
    assert integer_nodes(path, backend="openvino")["integer"]["Convolution"] == convolutions


def test_what_is_right_in_integers_stays(tmp_path):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1)
    )
    x = torch.randn(8, 3, 8, 8)
    path = export(model.eval(), tmp_path / "float.onnx", example=x).path
    assert prepared(path.read_bytes()) == path.read_bytes()
    quantize(model, calibration=[x])
    path = export(model, tmp_path / "quantized.onnx", example=x).path
    assert prepared(path.read_bytes()) == path.read_bytes()  # zero point 0, and a mean of images


def test_two_bit_numbers_become_bytes(parts, tmp_path):
    model = parts["residual"](bits=2).eval()
    before = onnx.load(export(model, tmp_path / "net.onnx", example=EXAMPLE).path)
    after = onnx.load_from_string(prepared((tmp_path / "net.onnx").read_bytes()))
    numbers = [
        {
            t.name: numpy_helper.to_array(t).astype(int).tolist()
            for t in m.graph.initializer
            if "integers" in t.name
        }
        for m in (before, after)
    ]
    assert numbers[0] == numbers[1]
    assert onnx.TensorProto.INT2 in {t.data_type for t in before.graph.initializer}
    assert onnx.TensorProto.INT2 not in {t.data_type for t in after.graph.initializer}


def test_batch_sizes_and_refused_input(plain, images, tmp_path):
    path = export(plain, tmp_path / "net.xml", example=EXAMPLE).path
    runtime = open_runtime(path, threads=1)  # the only backend for .xml
    with torch.no_grad():
        for size in (1, 2, 3, 4, 5, 6, 1):
            assert torch.allclose(runtime(images[:size]), plain(images[:size]), atol=1e-5)
    with pytest.raises(errors.InputError, match="takes float32 of shape"):
        runtime(images[:, :2])
    runtime.close()
    with pytest.raises(errors.InputError, match="has been closed"):
        runtime(images)


def test_verify_in_openvino(residual, images, tmp_path):
    path = export(residual, tmp_path / "net.onnx", example=EXAMPLE).path
    found = verify(path, residual, [images], backend="openvino", threads=1, repeats=2, agreement_at_least=90)
    assert found.backend == "openvino"
    assert found.integer_nodes["integer"]["Convolution"] == 2


def test_halves_of_different_exports_are_refused(plain, residual, tmp_path):
    one = export(plain, tmp_path / "one.xml", example=EXAMPLE).path
    two = export(residual, tmp_path / "two.xml", example=EXAMPLE).path
    one.with_suffix(".bin").write_bytes(two.with_suffix(".bin").read_bytes())
    with pytest.raises(errors.CorruptFile, match=r"it and one\.bin do not match their checksum"):
        open_runtime(one)
    two.with_suffix(".bin").unlink()
    with pytest.raises(errors.InputError, match=r"there is no two\.bin beside it"):
        open_runtime(two)


def test_without_openvino_the_error_names_the_extra(plain, tmp_path, monkeypatch):
    path = export(plain, tmp_path / "net.onnx", example=EXAMPLE).path
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(errors.MissingExtra, match=r"pip install 'pintsize\[openvino\]'"):
        open_runtime(path, backend="openvino")
    with pytest.raises(errors.MissingExtra):
        export(plain, tmp_path / "net.xml", example=EXAMPLE)


class Sequences(nn.Module):
    """A convolution, and what makes OpenVINO compute sizes while it runs, if the batch is open."""

    def __init__(self, rnn: nn.Module | None) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.rnn, self.fc = rnn, nn.Linear(48 if rnn is None else 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(self.one(x).relu()).relu().permute(0, 3, 1, 2).flatten(2)
        y = y + torch.zeros(x.shape[0], 1, 1) if self.rnn is None else self.rnn(y)[0]
        return self.fc(y[:, -1])


@pytest.mark.parametrize("kind", [None, nn.GRU, nn.LSTM, nn.RNN])
def test_layers_are_right_where_sizes_are_computed_and_the_batch_is_open(kind, tmp_path):
    torch.manual_seed(0)
    model = Sequences(None if kind is None else kind(48, 16, batch_first=True)).eval()
    x = torch.rand(4, 1, 12, 6)
    quantize(model, calibration=[x], progress=False)
    path = export(model, tmp_path / "net.xml", example=x[:1]).path
    with torch.no_grad():
        expected = model(x)
    for shape in (None, [4, 1, 12, 6]):  # as its users open it, and as our runtime does
        network = core().read_model(path)
        if shape:
            network.reshape(shape)
        compiled = core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = torch.tensor(next(iter(compiled(x.numpy()).values())))
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


LET_GO = """
import faulthandler, os, signal, sys, threading
import numpy as np
import pintsize as ps
faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda *_: None)
opened = [ps.open_runtime(sys.argv[1], backend="openvino", threads=1) for _ in range(2)]
for runtime in opened:
    runtime(np.zeros((1, 3, 16, 16), np.float32))
del runtime
opened.pop(0)
os.kill(os.getpid(), signal.SIGUSR1)
thread = threading.Thread(target=opened.clear)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGUSR1)
print("still here")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such signals")
def test_a_signal_finds_its_stack_whichever_thread_lets_the_last_network_go(parts, tmp_path):
    path = export(parts["residual"](bits=8).eval(), tmp_path / "net.xml", example=EXAMPLE).path
    told = subprocess.run([sys.executable, "-c", LET_GO, path], capture_output=True, text=True, check=True)
    assert told.stdout == "still here\n"
