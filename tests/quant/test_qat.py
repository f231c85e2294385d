"""Training with quantizers: gradients, following and learned ranges, late freezing, damping, folding afterwards."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pintsize as ps
from pintsize import quant
from pintsize.deploy import integer_nodes
from pintsize.errors import InputError
from pintsize.quant import FakeQuantize, LateFreezing, QuantizationAware, qat
from pintsize.quant.grid.ties import avoid_ties
from pintsize.quant.network import convert
from pintsize.quant.network.placement import Plan
from pintsize.storage.record import record
from pintsize.training.callbacks import TrainState
from pintsize.training.hooks import optimizer_step_hooks


def reference(x, scale, zero_point, qmin, qmax, factor):
    """LSQ written out with autograd: the straight-through estimator is a detached rounding."""
    scale = scale * factor + (scale - scale * factor).detach()
    q = x / scale + zero_point
    q = q + (torch.round(q) - q).detach()
    return (q.clamp(qmin, qmax) - zero_point) * scale


@pytest.mark.parametrize("zero_point", [0, 5])
def test_gradients_per_tensor_against_autograd(zero_point):
    x = torch.randn(6, 3, 4, 4, dtype=torch.float32).mul(3)
    quantizer = FakeQuantize(4, learnable=True)
    quantizer.scale.data.fill_(0.37)
    quantizer.zero_point.fill_(zero_point)
    given, scale = x.clone().requires_grad_(), torch.tensor(0.37, requires_grad=True)
    factor = (3 * 4 * 4 * 15) ** -0.5
    expected = reference(given, scale, zero_point, 0, 15, factor)
    upstream = torch.randn_like(x)
    expected.backward(upstream)
    own = x.clone().requires_grad_()
    found = quantizer(own)
    found.backward(upstream)
    assert torch.allclose(found, expected)
    assert torch.allclose(own.grad, given.grad)
    assert torch.allclose(quantizer.scale.grad, scale.grad, rtol=1e-4, atol=1e-5)


def test_gradients_per_channel_by_hand():
    quantizer = FakeQuantize(2, signed=True, channels=2, axis=0, learnable=True)
    quantizer.scale.data.copy_(torch.tensor([1.0, 2.0]))
    weight = torch.tensor([[0.25, 5.0], [-9.0, -1.5]], requires_grad=True)
    quantizer(weight).sum().backward()
    # inside: round(x/s) − x/s; outside: the level; times 1/√(2 weights · qmax 1)
    expected = torch.tensor([(0 - 0.25) + 1, -2 + (-1 - -0.75)]) / 2**0.5
    assert torch.allclose(quantizer.scale.grad, expected)
    assert weight.grad.tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize(
    ("bits", "signed"), [(2, True), (3, False), (4, True), (5, False), (8, True), (8, False)]
)
def test_gradients_of_every_quantizer_against_the_closed_form(bits, signed, channels, learnable):
    quantizer = FakeQuantize(bits, signed=signed, channels=channels, axis=1, learnable=learnable)
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(4, 3, 5, generator=generator) * 2
    low, high = (torch.full(quantizer.scale.shape, end) for end in (-1.5, 1.5))
    quantizer.set_range(low, high)
    upstream = torch.randn(x.shape, generator=generator)
    own = x.clone().requires_grad_()
    quantizer(own).backward(upstream)
    scale, zero = (quantizer.along(x, v.detach()).double() for v in (quantizer.scale, quantizer.zero_point))
    q = torch.round(x.double() / scale) + zero
    inside = (q >= quantizer.qmin) & (q <= quantizer.qmax)
    assert torch.allclose(own.grad, upstream * inside)
    if learnable:
        slope = q.clamp(quantizer.qmin, quantizer.qmax) - zero - torch.where(inside, x.double() / scale, 0.0)
        shared = x[0].numel() if channels is None else x.numel() // 3
        wanted = (slope * upstream).sum((0, 2) if channels else (0, 1, 2)) / (shared * quantizer.qmax) ** 0.5
        assert torch.allclose(quantizer.scale.grad.double(), wanted, rtol=1e-4, atol=1e-5)


def test_gradients_of_one_bit_weights_against_the_closed_form():
    quantizer = FakeQuantize(1, signed=True, channels=2, axis=0, learnable=True)
    quantizer.scale.data.copy_(torch.tensor([0.5, 2.0]))
    weight = torch.tensor([[0.3, -4.0], [-0.1, 0.0]], requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    quantizer(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)
    assert quantizer.scale.grad.tolist() == [1 - 2, -3 + 5]


@pytest.mark.parametrize(("signed", "bits"), [(True, 3), (False, 4)])
def test_scale_gradient_is_the_slope_of_the_output_where_the_levels_stay(signed, bits):
    """With the integers held, the output is linear in the scale outside of the range: a finite difference."""
    quantizer = FakeQuantize(bits, signed=signed, learnable=True)
    quantizer.scale.data.fill_(0.1)
    x = torch.full((1, 8), 9.0)  # clipped: y = qmax · s
    quantizer(x).sum().backward()
    factor = (8 * quantizer.qmax) ** -0.5
    with torch.no_grad():
        before = quantizer(x).sum()
        quantizer.scale.add_(1e-3)
        slope = (quantizer(x).sum() - before) / 1e-3
    assert quantizer.scale.grad.item() == pytest.approx(slope.item() * factor, rel=1e-3)


def test_a_learned_scale_finds_the_best_range():
    torch.manual_seed(0)
    x = torch.randn(64, 256)
    quantizer = FakeQuantize(3, signed=True, learnable=True)
    quantizer.set_range(x.min(), x.max())
    start = (quantizer(x) - x).square().mean().item()
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
    best = min(
        (torch.fake_quantize_per_tensor_affine(x, s, 0, -4, 3) - x).square().mean().item()
        for s in torch.linspace(0.2, 1.2, 200).tolist()
    )
    assert start > 1.5 * best
    assert (quantizer(x) - x).square().mean().item() < 1.03 * best


def test_a_learned_scale_stays_positive():
    quantizer = FakeQuantize(4, learnable=True)
    quantizer.scale.data.fill_(-0.5)
    assert quantizer(torch.ones(1, 2)).isfinite().all()
    assert quantizer.scale.item() > 0


def test_no_step_shrinks_a_learned_scale_below_half():
    quantizer = FakeQuantize(4, signed=True, channels=3, axis=0, learnable=True)
    quantizer.scale.data.copy_(torch.tensor([0.4, 0.4, 0.4]))
    quantizer(torch.randn(3, 5)).sum().backward()
    quantizer.scale.data.copy_(torch.tensor([-0.3, 0.1, 0.3]))  # as an optimizer might
    quantizer.after_optimizer_step()
    assert quantizer.scale.tolist() == pytest.approx([0.2, 0.2, 0.3])
    quantizer.scale.data.fill_(0.01)  # set by something else: no step
    quantizer.after_optimizer_step()
    assert quantizer.scale.tolist() == pytest.approx([0.01] * 3)


def test_followed_range_by_hand():
    quantizer = FakeQuantize(8)
    quantizer.set_range(torch.tensor(0.0), torch.tensor(2.0))
    quantizer.follow = 0.75
    quantizer(torch.tensor([0.0, 4.0]))  # 0.75 · 2 + 0.25 · 4
    assert quantizer.limits()[1].item() == pytest.approx(2.5)
    quantizer.eval()
    quantizer(torch.tensor([0.0, 400.0]))
    quantizer.train()
    quantizer.frozen = True
    quantizer(torch.tensor([0.0, 400.0]))
    assert quantizer.limits()[1].item() == pytest.approx(2.5)


def test_a_followed_low_end_is_not_held_up_by_the_rounded_zero_point():
    quantizer = FakeQuantize(8)
    quantizer.set_range(torch.tensor(-1.0), torch.tensor(1.0))
    quantizer.follow = 0.99
    x = torch.tensor([-0.5, 1.0])
    for _ in range(600):
        quantizer(x)
    assert quantizer.limits()[0].item() == pytest.approx(-0.5, abs=0.02)


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def stripes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (count,), generator=generator)
    x = torch.randn(count, 1, 8, 8, generator=generator) * 0.7
    wave = torch.tensor([1.0, -1.0]).repeat(4)
    x[y == 1] += wave
    x[y == 2] += wave[:, None]
    return x, y


def fit(model, x, y, steps, lr=0.01):
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for step in range(steps):
        part = slice(step * 64 % len(x), step * 64 % len(x) + 64)
        optimizer.zero_grad()
        F.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
        for hook in optimizer_step_hooks(model):
            hook()
    return model.eval()


@torch.no_grad()
def correct(model, x, y):
    return 100 * float((model(x).argmax(1) == y).float().mean())


@pytest.fixture(scope="module")
def trained():
    x, y = stripes(512)
    return fit(small(), x, y, 60)


def test_training_recovers_two_bits_and_folds_exactly(trained, tmp_path):
    x, y = stripes(512)
    unseen = stripes(512, seed=1)
    model = copy.deepcopy(trained)
    quant.quantize(model, weights=2, activations=3, edges=None, method="lsq", calibration=x)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert all(isinstance(q.scale, nn.Parameter) for q in convert.quantizers(model))
    before = F.cross_entropy(model.eval()(unseen[0]), unseen[1]).item()
    fit(model, x, y, 60)
    assert correct(model, *unseen) > 95
    assert F.cross_entropy(model(unseen[0]), unseen[1]).item() < 0.8 * before
    with torch.no_grad():
        expected = model(unseen[0])
    quant.fold_batchnorm(model, x[:2])
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert [step.kind for step in record(model)] == ["quantize", "fold"]
    with torch.no_grad():
        folded = model(unseen[0])
    # biases are rounded to the accumulator's unit, and scales to 8 bits: a few 3-bit activations become others
    assert (folded - expected).abs().max() < 0.25 * expected.abs().max()
    assert (folded - expected).abs().mean() < 0.08 * expected.abs().mean()
    assert (folded.argmax(1) == expected.argmax(1)).float().mean() > 0.99
    ps.save(model, tmp_path / "net.safetensors")
    again = ps.load(tmp_path / "net.safetensors", model=small())
    assert torch.equal(again(unseen[0]), model(unseen[0]))


def test_exported_before_and_after_folding(trained, tmp_path):
    """Both compute what the simulation does; only folded convolutions run in integers."""
    x, y = stripes(64)
    model = copy.deepcopy(trained)
    quant.quantize(model, weights=4, method="lsq", calibration=x)
    fit(model, x, y, 5)
    counts = []
    for _ in range(2):
        ps.export(model.eval(), tmp_path / "net.onnx", example=x[:2])
        runtime = ps.open_runtime(tmp_path / "net.onnx")
        with torch.no_grad():
            assert (torch.as_tensor(runtime(x)) - model(x)).abs().max() < 0.1 * model(x).abs().max()
        runtime.close()
        counts.append(integer_nodes(tmp_path / "net.onnx")["float"])
        quant.fold_batchnorm(model, x[:2])
    assert counts == [{"Conv": 2}, {}]


def test_negative_norm_factors_do_not_lose_the_lowest_level(trained):
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model[1].weight[::2] *= -1
        model[0].weight[::2] *= -1
        model[1].running_mean[::2] *= -1
    x, _ = stripes(64)
    assert torch.allclose(model(x), trained(x), atol=1e-5)
    quant.quantize(model, weights=2, edges=None, method="lsq", calibration=x)
    assert (model[1].weight >= 0).all()
    expected = model(x)
    quant.fold_batchnorm(model, x[:2])
    integers = model[0].weight_quantizer.to_int(model[0].weight)
    assert integers.min() == -2
    assert ((model(x) - expected).abs() > 0.02 * expected.abs().max()).float().mean() < 0.02


def test_ema_ranges_follow_in_training(trained):
    x, y = stripes(512)
    model = copy.deepcopy(trained)
    quant.quantize(model, method="ema", calibration=x)
    before = model.activation_quantizers["input_0"].scale.clone()
    fit(model, x * 3, y, 30)
    assert model.activation_quantizers["input_0"].scale > before
    layer = model[0]
    assert torch.allclose(
        layer.weight_quantizer.scale, layer.weight.detach().abs().amax((1, 2, 3)) / 127, rtol=0.2
    )


def state(model, epoch, epochs=4, step=0):
    return TrainState(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        device=torch.device("cpu"),
        epochs=epochs,
        steps_per_epoch=10,
        epoch=epoch,
        step=step,
    )


def test_freezing_comes_late(trained):
    x, _ = stripes(64)
    model = copy.deepcopy(trained)
    quant.quantize(model, weights=4, method="lsq", calibration=x)
    callback = QuantizationAware(freeze_at=0.5)
    for epoch, frozen in enumerate([False, False, True, True]):
        model.train()
        callback.on_epoch_start(state(model, epoch))
        mean = model[1].running_mean.clone()
        loss = model(x * 2 + 1).sum()
        assert torch.equal(model[1].running_mean, mean) is frozen
        model.zero_grad()
        loss.backward()
        assert (model[0].weight_quantizer.scale.grad is None) is frozen
        callback.on_epoch_end(state(model, epoch))
    assert not any(q.frozen for q in convert.quantizers(model))
    learned = [q.scale for q in convert.quantizers(model) if q.learnable]
    assert learned
    assert all(scale.requires_grad for scale in learned)  # the next training goes on with them


def test_oscillation_penalty_by_hand():
    model = nn.Sequential(nn.Linear(2, 1))
    convert.quantize_layer(model[0], weight_bits=2)
    model[0].weight_quantizer.scale.fill_(0.5)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.4, 7.0]]))  # 0.1 off its level, or 0.2 steps; and clipped
    penalty = qat.oscillation(model)
    assert penalty.item() == pytest.approx(0.04)
    penalty.backward()
    assert model[0].weight.grad[0, 0].item() < 0  # towards 0.5
    assert model[0].weight.grad[0, 1].item() == 0
    assert QuantizationAware(damping=0.0).penalty(state(model, 1)) is None
    assert QuantizationAware(damping=2.0).penalty(state(model, 1, step=20)).item() == pytest.approx(0.04)


def test_with_the_training_loop():
    data = ps.data.load("digits", limit=200)
    model = ps.models.create("resnet-demo", num_classes=10, in_channels=1)
    quant.quantize(model, weights=3, method="lsq", calibration=data.train)
    ps.train(model, data, epochs=2, lr=0.01, progress=False, augment=False, callbacks=[QuantizationAware()])
    quant.fold_batchnorm(model, torch.zeros(2, *data.image_shape))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_bfloat16_autocast(trained):
    x, y = stripes(64)
    model = copy.deepcopy(trained)
    quant.quantize(model, weights=4, activations=4, method="lsq", calibration=x)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("options", [{"freeze_at": 1.5}, {"damping": -1.0}])
def test_options_out_of_range(options):
    with pytest.raises(InputError, match=next(iter(options))):
        QuantizationAware(**options)


def grouped_transposed():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 1),
    )  # fmt: skip


def test_a_grouped_transposed_convolution_is_trained_with_its_norm_folded(tmp_path):
    torch.manual_seed(0)
    model = grouped_transposed()
    images = torch.randn(8, 2, 6, 6)
    model(images)
    ps.quantize(model.eval(), calibration=images, method="lsq", progress=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(images).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        trained = model.eval()(images)
        folded = ps.quant.fold_batchnorm(model, images)
        assert folded.norms == {"0": "1"}
        assert (model(images) - trained).abs().max() < 0.02 * trained.abs().max()
    ps.save(model, tmp_path / "net.safetensors")
    again = grouped_transposed()
    ps.load(tmp_path / "net.safetensors", model=again)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), model(images))


def test_a_step_of_any_loop_leaves_a_learned_scale_half_of_it():
    """Far below zero after a step too long: the layer would give nothing from then on."""
    torch.manual_seed(0)
    model, images = (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval(),
        torch.randn(8, 2, 6, 6),
    )
    ps.quantize(model, calibration=images, method="lsq", progress=False)
    scales = [quantizer.scale for quantizer in convert.quantizers(model)]
    for then in (lambda: model(images), lambda: avoid_ties(model, record(model)[0], Plan())):
        model.train()(images).sum().backward()
        before = [scale.detach().clone() for scale in scales]
        with torch.no_grad():
            for scale in scales:
                scale.sub_(2 * scale)
            model.eval()
            then()
        assert all(torch.equal(scale, 0.5 * old) for scale, old in zip(scales, before, strict=True))


def test_late_freezing_counts_forwards_and_withstands_train(trained):
    x, _ = stripes(64)
    model = copy.deepcopy(trained)
    quant.quantize(model, weights=4, method="lsq", calibration=x)
    freezing = LateFreezing(model, after=2)
    for frozen in [False, False, True, True]:
        model.train()  # as loops do that call it at every step
        with torch.no_grad():
            model(x)  # a look at something, no step
        model.eval()(x)
        model.train()
        assert freezing.frozen is frozen
        mean = model[1].running_mean.clone()
        model(x * 2 + 1).sum().backward()
        assert torch.equal(model[1].running_mean, mean) is frozen
        assert (model[0].weight_quantizer.scale.grad is None) is frozen
        model.zero_grad()
    freezing.remove()
    assert all(
        quantizer.scale.requires_grad for quantizer in convert.quantizers(model) if quantizer.learnable
    )
    mean = model[1].running_mean.clone()
    model.train()(x)
    assert not torch.equal(model[1].running_mean, mean)


def test_late_freezing_refuses_what_it_cannot_freeze(trained):
    with pytest.raises(InputError, match="without quantizers: .*; call ps.quantize"):
        LateFreezing(trained, after=1)
    for after in (-1, 1.5, True):
        with pytest.raises(InputError, match="it is a number of forwards"):
            LateFreezing(trained, after=after)


def sized(norm_variance):
    """Two convolutions with a norm between, whose running variance says that it is given other values."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    with torch.no_grad():
        model[1].running_var.fill_(norm_variance)
    return model


@pytest.mark.parametrize("variance", [1e4, 1e-4])
def test_learned_scales_suit_the_activations_of_training(variance):
    model, images = sized(variance), torch.randn(8, 3, 12, 12)
    before = copy.deepcopy(model[1].running_var)
    ps.quantize(model, calibration=images, method="lsq", progress=False)
    assert torch.equal(model[1].running_var, before)
    high = next(float(q.limits()[1]) for q in list(model.activation_quantizers.values())[1:])
    with torch.no_grad():
        normed = F.batch_norm(F.conv2d(images, model[0].weight, model[0].bias), None, None, training=True)
    assert high == pytest.approx(float(normed.max()), rel=0.05)


def test_learned_scales_stay_where_statistics_fit():
    model, images = sized(1.0), torch.randn(8, 3, 12, 12)
    with torch.no_grad():
        seen = F.conv2d(images, model[0].weight, model[0].bias)
        model[1].running_mean.copy_(seen.mean([0, 2, 3]))
        model[1].running_var.copy_(seen.var([0, 2, 3]))
    other = copy.deepcopy(model)
    ps.quantize(model, calibration=images, method="lsq", progress=False)
    ps.quantize(other, calibration=images, method="mse", progress=False)
    pairs = zip(model.activation_quantizers.values(), other.activation_quantizers.values(), strict=True)
    for learned, plain in pairs:
        assert float(learned.scale.detach()) == pytest.approx(float(plain.scale), rel=0.01)


def test_one_value_per_channel_leaves_the_scales_of_eval_mode():
    model = nn.Sequential(nn.Conv2d(3, 8, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    ps.quantize(model, calibration=torch.randn(1, 3, 4, 4), method="lsq", progress=False)
    assert all(quantizer.scale.isfinite() for quantizer in model.activation_quantizers.values())
