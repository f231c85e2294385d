"""The file computes the integers that the simulation computes, in every runtime, bit for bit."""

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.quant import exact_simulation
from pintsize.quant.grid.ties import settle
from pintsize.quant.ptq import calibrate


class Parts(nn.Module):
    """Every kind of kernel: grouped and depthwise layers, a sum, a product, a concatenation, pools, a ReLU6."""

    def __init__(self) -> None:
        super().__init__()

        def block(inputs, outputs, groups=1, activation=nn.ReLU):
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=False),
                nn.BatchNorm2d(outputs), activation(),
            )  # fmt: skip

        self.stem, self.deep = block(2, 16), block(16, 16, 16, nn.ReLU6)
        self.left, self.right = block(16, 16, 4), block(16, 16)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(32, 10)

    def forward(self, x):
        x = self.deep(self.stem(x))
        x = self.pool(x + self.left(x))
        x = torch.cat([x, self.right(x)], 1)
        return self.head(x.mean((2, 3)))


def network():
    torch.manual_seed(0)
    model = Parts()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 2, 14, 14))  # statistics of norms that are not those of initialisation
    return model.eval()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "executorch"])
@pytest.mark.parametrize(("weights", "method"), [(8, "mse"), (4, "mse"), (2, "lsq")])
def test_no_integer_differs(backend, weights, method, tmp_path):
    pytest.importorskip(backend)
    model, images = network(), torch.randint(-96, 96, (64, 2, 14, 14)) / 32
    ps.quantize(model, weights=weights, calibration=images, method=method, progress=False)
    if method == "lsq":
        with torch.no_grad():  # as if trained
            for module in model.modules():
                if isinstance(module, ps.quant.FakeQuantize):
                    module.scale.mul_(1 + 0.1 * torch.rand_like(module.scale))
        ps.quant.fold_batchnorm(model, images[:2])
    path = tmp_path / ("net.pte" if backend == "executorch" else "net.onnx")
    ps.export(model, path, example=images[:1])
    with torch.no_grad():
        expected, single = exact_simulation(model)(images.double()), model(images)
    runtime = ps.open_runtime(path, backend=backend, threads=1)
    found = torch.as_tensor(runtime(images))
    runtime.close()
    step = float((expected.amax() - expected.amin()) / 255)
    assert (found - expected).abs().max() < 1e-3 * step  # one integer behind the last layer would be far more
    assert (single - expected).abs().max() < 1e-3 * step


class Means(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.conv, self.pool, self.mix, self.head = (
            nn.Conv2d(3, 32, 3, padding=1),
            pool,
            nn.Conv2d(32, 32, 1),
            nn.Linear(32, 8),
        )

    def forward(self, x):
        x = self.pool(torch.relu(self.conv(x)))
        return self.head(self.mix(x if x.dim() == 4 else x[:, :, None, None]).flatten(2).amax(-1))


POOLS = [
    (14, lambda x: x.mean((2, 3))),
    (7, nn.AdaptiveAvgPool2d(1)),
    (8, nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    (8, nn.AvgPool2d(2, divisor_override=3)),
]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "executorch"])
@pytest.mark.parametrize(("side", "pool"), POOLS)
def test_no_mean_differs(backend, side, pool, tmp_path, monkeypatch):
    """Scales with which every other mean is a tie are moved off them."""
    pytest.importorskip(backend)

    def with_ties(model, step, plan, *rest):
        quantizers = ps.quant.activation_quantizers(model)
        for name, (pair,) in plan.pairs.items():
            read, made = quantizers[pair.one], quantizers[name]
            count = max(pair.divisors)
            levels = 2 * max(1, round(count * float(made.scale / read.scale) / 2))
            read.scale.fill_(2.0 ** round(float(read.scale.log2())))
            made.scale.copy_(read.scale * levels / count)
        settle(model, step, plan, *rest)

    monkeypatch.setattr(calibrate, "settle", with_ties)
    torch.manual_seed(0)
    model, images = Means(pool).eval(), torch.randint(-96, 96, (16, 3, side, side)) / 32
    ps.quantize(model, calibration=images, method="minmax", progress=False)
    path = tmp_path / ("net.pte" if backend == "executorch" else "net.onnx")
    ps.export(model, path, example=images[:1])
    expected = exact_simulation(model)(images.double())
    with ps.open_runtime(path, backend=backend, threads=1) as runtime:
        assert (runtime(images) - expected).abs().max() < 1e-5 * expected.abs().max()
