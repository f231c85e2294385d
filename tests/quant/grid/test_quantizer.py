import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pintsize.errors import InputError
from pintsize.quant import FakeQuantize
from pintsize.quant.network import qdq_op


def test_symmetric_values_by_hand():
    quantizer = FakeQuantize(4, signed=True)
    quantizer.scale.fill_(0.5)
    # levels -8…7 times 0.5; ties go to the even integer
    x = torch.tensor([-10.0, -4.0, -0.25, 0.25, 0.3, 0.75, 3.5, 9.0])
    assert quantizer(x).tolist() == [-4.0, -4.0, 0.0, 0.0, 0.5, 1.0, 3.5, 3.5]
    assert quantizer.to_int(x).tolist() == [-8, -8, 0, 0, 1, 2, 7, 7]


def test_affine_range_by_hand():
    quantizer = FakeQuantize(8)
    quantizer.set_range(torch.tensor(-1.0), torch.tensor(4.1))  # 5.1 / 255 = 0.02, zero at 50
    assert quantizer.scale.item() == pytest.approx(0.02)
    assert quantizer.zero_point.item() == 50
    assert quantizer.to_int(torch.tensor([-2.0, -1.0, 0.0, 0.02, 4.1, 5.0])).tolist() == [
        0,
        0,
        50,
        51,
        255,
        255,
    ]


def test_non_negative_values_have_zero_point_zero():
    quantizer = FakeQuantize(8)
    quantizer.set_range(torch.tensor(0.5), torch.tensor(2.55))
    assert quantizer.zero_point.item() == 0
    assert quantizer.scale.item() == pytest.approx(0.01)


def test_int8_weights_stay_off_minus_128_and_low_bits_use_every_level():
    assert (FakeQuantize(8, signed=True).qmin, FakeQuantize(8, signed=True).qmax) == (-127, 127)
    assert (FakeQuantize(2, signed=True).qmin, FakeQuantize(2, signed=True).qmax) == (-2, 1)
    assert (FakeQuantize(8).qmin, FakeQuantize(8).qmax) == (0, 255)


def test_per_channel_along_axis_1():
    quantizer = FakeQuantize(8, signed=True, channels=2, axis=1)
    quantizer.scale.copy_(torch.tensor([1.0, 0.1]))
    x = torch.tensor([[0.52, 0.52], [1.4, 1.4]])
    assert torch.allclose(quantizer(x), torch.tensor([[1.0, 0.5], [1.0, 1.4]]))
    assert quantizer.to_int(x).tolist() == [[1, 5], [1, 14]]


def test_one_bit_is_the_sign_times_the_scale():
    quantizer = FakeQuantize(1, signed=True, channels=2, axis=0)
    quantizer.scale.copy_(torch.tensor([2.0, 3.0]))
    x = torch.tensor([[-0.1, 0.0], [5.0, -5.0]], requires_grad=True)
    y = quantizer(x)
    assert y.tolist() == [[-2.0, 2.0], [3.0, -3.0]]
    y.sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert quantizer.to_float(quantizer.to_int(x)).tolist() == y.tolist()


def test_gradient_is_one_inside_and_zero_outside():
    quantizer = FakeQuantize(4)
    quantizer.scale.fill_(1.0)
    x = torch.tensor([-3.0, 2.2, 14.9, 40.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.booleans(), st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_integers_and_floats_say_the_same(bits, signed, spread, seed):
    x = torch.randn(257, generator=torch.Generator().manual_seed(seed)) * spread
    quantizer = FakeQuantize(bits, signed=signed)
    quantizer.set_range(x.min(), x.max())
    y = quantizer(x)
    integers = quantizer.to_int(x)
    assert integers.min() >= quantizer.qmin
    assert integers.max() <= quantizer.qmax
    assert torch.equal(quantizer.to_float(integers), y)
    assert torch.equal(quantizer(y), y)  # on the grid already
    assert quantizer(torch.zeros(1)).item() == 0.0
    # a zero point is a whole number, so the range may shift by up to half a step
    assert (y - x).abs().max() <= quantizer.scale * 1.01


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_operator_equals_fused_kernel(axis):
    x = torch.randn(4, 4, 3)
    shape = () if axis < 0 else (4,)
    scale, zero_point = torch.rand(shape) + 0.01, torch.full(shape, 3, dtype=torch.int32)
    expected = qdq_op.kernel(x, scale, zero_point, qmin=0, qmax=15, axis=axis)
    assert torch.equal(torch.ops.pintsize.quantize_dequantize(x, scale, zero_point, 0, 15, axis), expected)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec:FutureWarning")
def test_export_uses_the_operator():
    quantizer = FakeQuantize(8)
    quantizer.set_range(torch.tensor(-1.0), torch.tensor(1.0))
    x = torch.randn(3, 4)
    program = torch.export.export(quantizer, (x,))
    assert any(node.target is torch.ops.pintsize.quantize_dequantize.default for node in program.graph.nodes)
    assert torch.equal(program.module()(x), quantizer(x))


def test_disabled_passes_unchanged_and_copies_are_independent():
    quantizer = FakeQuantize(2, signed=True)
    other = copy.deepcopy(quantizer)
    quantizer.enabled = False
    x = torch.randn(5)
    assert quantizer(x) is x
    assert not torch.equal(other(x), x)


@pytest.mark.parametrize("bits", [0, 9, 2.5, True, "8"])
def test_bits_out_of_range(bits):
    with pytest.raises(InputError, match="from 2 to 8"):
        FakeQuantize(bits)


def test_bfloat16_stays_bfloat16():
    quantizer = FakeQuantize(8)
    assert quantizer(torch.randn(4, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("axis", "signed", "bits"), [(-1, False, 8), (-1, True, 4), (1, True, 8), (1, False, 3)]
)
def test_vectorised_arithmetic_equals_the_fused_kernels(axis, signed, bits, dtype):
    quantizer = FakeQuantize(bits, signed=signed, channels=5 if axis == 1 else None, axis=axis)
    ends = torch.linspace(1, 2, 5) if axis == 1 else torch.tensor(1.7)
    quantizer.set_range(-0.6 * ends, ends)
    levels = quantizer.to_float(torch.arange(-40, 300).view(-1, 1).expand(-1, 5))
    ties = levels + 0.5 * quantizer.along(levels, quantizer.scale)
    random = torch.randn(400, 5, generator=torch.Generator().manual_seed(0)) * 2
    x = torch.cat([random, levels, ties, torch.tensor([[-1e6, -0.0, 0.0, 1e-30, 1e6]])]).to(dtype)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    args = (quantizer.scale, quantizer.zero_point)
    own, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found = quantizer(own)
    if axis < 0:
        wanted = torch.fake_quantize_per_tensor_affine(theirs, *args, quantizer.qmin, quantizer.qmax)
    else:
        wanted = torch.fake_quantize_per_channel_affine(theirs, *args, axis, quantizer.qmin, quantizer.qmax)
    assert found.dtype == dtype
    assert torch.equal(found, wanted)
    found.backward(upstream)
    wanted.backward(upstream)
    agree = own.grad == theirs.grad
    assert agree[:400].all()
    assert quantizer(torch.full((1, 5), 1e30)).float().max() > 0  # where the fused kernels overflow
    assert agree.float().mean() > 0.98  # at the outermost thresholds themselves either will do
