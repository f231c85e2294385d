import pytest
import torch

from pintsize.errors import InputError
from pintsize.quant import FakeQuantize
from pintsize.quant.ptq import observers
from pintsize.quant.ptq.observers import ExtentObserver, HistogramObserver, activation_range, set_weight_range


def seen(x):
    histogram = HistogramObserver(x.min(), x.max())
    histogram.see(x)
    return histogram


def test_extent_over_batches():
    observer = ExtentObserver()
    observer.see(torch.tensor([1.0, 2.0]))
    observer.see(torch.tensor([-3.0, 1.0]))
    assert (observer.low.item(), observer.high.item(), observer.count) == (-3.0, 2.0, 2)


def test_moving_average_by_hand():
    observer = ExtentObserver(decay=0.75)
    observer.see(torch.tensor([0.0, 4.0]))
    observer.see(torch.tensor([-4.0, 8.0]))
    assert (observer.low.item(), observer.high.item()) == (-1.0, 5.0)


def test_percentile_leaves_the_given_share_out():
    x = torch.arange(1, 10001) / 1000.0  # 0.001 … 10
    low, high = activation_range("percentile", seen(x), 8, percentile=99.0)
    assert float(high) == pytest.approx(9.9, abs=0.02)
    assert float(low) == pytest.approx(0.001)
    both = torch.cat([x, -x])
    low, high = activation_range("percentile", seen(both), 8, percentile=99.0)
    assert float(high) == pytest.approx(9.9, abs=0.02)
    assert float(low) == pytest.approx(-9.9, abs=0.02)


def test_mse_is_near_the_best_range_for_an_outlier():
    x = torch.cat([torch.rand(20000, generator=torch.Generator().manual_seed(0)), torch.tensor([40.0])])

    def error(high, bits):
        quantizer = FakeQuantize(bits)
        quantizer.set_range(torch.tensor(0.0), torch.tensor(float(high)))
        return (quantizer(x) - x).square().mean().item()

    low, high = activation_range("mse", seen(x), 4)
    best = min(error(h, 4) for h in torch.linspace(0.2, 40, 400))
    assert float(low) == 0.0
    assert error(high, 4) <= 1.1 * best
    assert error(high, 4) < 0.7 * error(40.0, 4)


def test_mse_keeps_a_uniform_range_whole():
    x = torch.linspace(-1, 3, 40001)
    low, high = activation_range("mse", seen(x), 8)
    assert float(low) == pytest.approx(-1.0, abs=0.05)
    assert float(high) == pytest.approx(3.0, abs=0.05)


def test_entropy_clips_a_long_tail_and_keeps_a_uniform_range():
    generator = torch.Generator().manual_seed(0)
    tail = torch.cat([torch.randn(100000, generator=generator).abs(), torch.tensor([60.0])])
    _, high = activation_range("entropy", seen(tail), 8)
    assert 2.0 < float(high) < 20.0
    _, high = activation_range("entropy", seen(torch.rand(100000, generator=generator)), 8)
    assert float(high) > 0.9


def test_entropy_is_not_misled_by_the_zeros_of_a_relu():
    x = torch.randn(50000, generator=torch.Generator().manual_seed(0)).relu()
    _, high = activation_range("entropy", seen(x), 8)
    assert float(high) > 0.5 * float(x.max())


def test_minmax_weight_scales_by_hand():
    quantizer = FakeQuantize(8, signed=True, channels=3, axis=0)
    set_weight_range(quantizer, torch.tensor([[1.27, -0.5], [0.1, -2.54], [0.0, 0.0]]), "minmax")
    assert quantizer.scale.tolist() == pytest.approx(
        [0.01, 0.02, 0.02]
    )  # a channel of zeros takes the largest


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_weight_scales_are_near_the_best_of_a_dense_search(bits):
    weight = torch.randn(3, 400, generator=torch.Generator().manual_seed(bits)) * torch.tensor(
        [[1.0], [0.1], [5.0]]
    )
    quantizer = FakeQuantize(bits, signed=True, channels=3, axis=0)
    set_weight_range(quantizer, weight, "mse")
    found = (quantizer(weight) - weight).square().sum(1)
    top = weight.abs().amax(1) / quantizer.qmax
    best = torch.full((3,), torch.inf)
    for fraction in torch.linspace(0.02, 1, 2000):
        quantizer.scale.copy_(top * fraction)
        best = torch.minimum(best, (quantizer(weight) - weight).square().sum(1))
    assert (found <= 1.03 * best).all()


def test_one_bit_scale_is_the_mean_magnitude():
    quantizer = FakeQuantize(1, signed=True, channels=1, axis=0)
    set_weight_range(quantizer, torch.tensor([[1.0, -3.0]]), "mse")
    assert quantizer.scale.tolist() == [2.0]


def test_transposed_weight_is_scaled_along_its_second_dimension():
    quantizer = FakeQuantize(8, signed=True, channels=2, axis=1)
    set_weight_range(quantizer, torch.tensor([[[1.27], [2.54]], [[0.5], [0.5]]]), "minmax")
    assert quantizer.scale.tolist() == pytest.approx([0.01, 0.02])


def test_unknown_method_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'minmax'"):
        observers.check_method("min-max")
