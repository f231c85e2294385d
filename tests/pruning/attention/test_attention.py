"""Attention vectors: normalisation, penalty, removal, and that weights and outputs are scaled alike."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import pintsize as ps
from pintsize.errors import InputError
from pintsize.graph import analyse
from pintsize.pruning.attention import sites as attention_sites
from pintsize.pruning.attention.layers import Attended
from pintsize.pruning.attention.ranges import plan_quantization
from pintsize.pruning.attention.vectors import ChannelAttention, elastic_net, weight_penalty
from pintsize.quant import FakeQuantize
from pintsize.recipe.attention import AttentionOptions

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def vector(values: list[float], **options: object) -> ChannelAttention:
    made = ChannelAttention(len(values), **options)  # type: ignore[arg-type]
    made.attention.data = torch.tensor(values)
    return made


def attended(model: nn.Module, **options: object) -> Attended:
    chosen = AttentionOptions(**options)  # type: ignore[arg-type]
    graph = analyse(model, IMAGE)
    sites = attention_sites.find(model, graph, chosen)
    return Attended(copy.deepcopy(model), graph, sites, chosen, example=IMAGE)


def busy(model: nn.Module) -> nn.Module:
    """`model` with batch norms whose every number matters."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(0.2 + torch.rand(tensor.shape, generator=generator))  # type: ignore[union-attr]
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))  # type: ignore[union-attr]
    return model.eval()


def test_normalisation_by_hand() -> None:
    values = [0.2, 0.4, 0.8, 0.1]
    assert vector(values)().tolist() == pytest.approx([0.25, 0.5, 1.0, 0.125])
    assert vector(values, normalize="none")().tolist() == pytest.approx(values)
    # the 50th percentile of four numbers lies halfway between the middle ones: 0.3
    halved = vector(values, normalize="percentile", percentile=50.0)()
    assert halved.tolist() == pytest.approx([0.2 / 0.3, 0.4 / 0.3, 0.8 / 0.3, 0.1 / 0.3])


def test_percentile_bounds_how_much_can_vanish() -> None:
    below = vector([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.6], normalize="percentile")
    assert len(below.vanished(1e-4)) == 6
    assert below()[-2:].min() >= 1.0  # the upper quarter is never below 1


def test_removed_units_stay_removed() -> None:
    attention = vector([0.0, 0.5, 1.0])
    attention.remove(attention.vanished(1e-4))
    attention.attention.data[0] = 0.9
    assert attention().tolist() == [0.0, 0.5, 1.0]
    assert attention.vanished(1e-4).tolist() == []
    attention().sum().backward()
    assert attention.attention.grad is not None
    assert attention.attention.grad[0] == 0


def test_start_is_uniform_between_its_ends_and_steps_stay_in_bounds() -> None:
    attention = ChannelAttention(2000, generator=torch.Generator().manual_seed(0))
    assert 0.4 <= float(attention.attention.detach().min()) < 0.41
    assert 0.89 < float(attention.attention.detach().max()) < 0.9
    attention.attention.data[:2] = torch.tensor([-0.1, 1.2])
    attention.bound()
    assert attention.attention.data[:2].tolist() == [0.0, 1.0]


def test_elastic_net_by_hand() -> None:
    a, b = torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.0, 0.0])
    expected = 0.8 * 1.5 + 0.2 * math.sqrt(1.25) + 0.8 * 1.0 + 0.2 * 1.0
    assert float(elastic_net([a, b])) == pytest.approx(expected)
    priced = elastic_net([a, b], l1=1.0, l2=0.0, prices=[2.0, 0.5])
    assert float(priced) == pytest.approx(2 * 1.5 + 0.5)
    dead = torch.zeros(3, requires_grad=True)
    elastic_net([dead]).backward()
    assert dead.grad is not None
    assert dead.grad.isfinite().all()


def test_weight_penalty_by_hand() -> None:
    weights = [torch.tensor([[3.0, -4.0]]), torch.tensor([[1.0]])]
    assert float(weight_penalty(weights, "l1")) == 8.0
    assert float(weight_penalty(weights, "l2")) == 6.0


@pytest.mark.parametrize("per", ["group", "convolution"])
@pytest.mark.parametrize("at", ["convolution", "norm"])
def test_weights_and_outputs_are_scaled_alike(per: str, at: str) -> None:
    model = busy(ps.models.create("resnet20", stem="small"))
    outputs = []
    for on in ("weights", "outputs"):
        net = attended(model, per=per, at=at, on=on)
        outputs.append(net.model(IMAGE))
        plain = copy.deepcopy(model)
        plain.load_state_dict(net.values())
        torch.testing.assert_close(plain(IMAGE), outputs[-1], rtol=1e-5, atol=1e-5)
    assert (outputs[0] - model(IMAGE)).abs().max() > 1e-2  # attention does something
    torch.testing.assert_close(
        outputs[0], outputs[1], rtol=1e-5, atol=1e-6 * float(outputs[0].detach().abs().max())
    )


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_quantization_commutes_with_attention(bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, images = (
        torch.randn(8, 3, 3, 3, generator=generator),
        torch.randn(2, 3, 9, 9, generator=generator),
    )
    factors = ChannelAttention(8, generator=generator)().detach()

    def rounded(w: Tensor) -> Tensor:
        quantizer = FakeQuantize(bits, signed=True, channels=8, axis=0)
        quantizer.scale.copy_(w.flatten(1).abs().amax(1) / 2 ** (bits - 1))
        return quantizer(w)

    on_weights = nn.functional.conv2d(images, rounded(weight * factors[:, None, None, None]))
    on_outputs = nn.functional.conv2d(images, rounded(weight)) * factors[None, :, None, None]
    assert (on_weights - on_outputs).abs().max() < 1e-6 * on_outputs.abs().max() + 1e-6


def test_sites_of_a_residual_network() -> None:
    model = ps.models.create("resnet20", stem="small")
    graph = analyse(model, IMAGE)
    alone = attention_sites.find(model, graph, AttentionOptions(per="convolution"))
    assert len(alone) == 18  # every convolution but the first
    assert [site.units for site in alone] == [16] * 6 + [32] * 6 + [64] * 6
    shared = attention_sites.find(model, graph, AttentionOptions(per="group"))
    # nine inner convolutions; the streams that the second and the third stage add to the first one's
    assert [len(site.targets) for site in shared].count(1) == 9
    assert sorted(len(site.targets) for site in shared if len(site.targets) > 1) == [3, 6]
    every = attention_sites.find(model, graph, AttentionOptions(keep_first=False))
    assert len(every) == len(shared) + 1
    without = attention_sites.find(model, graph, AttentionOptions(ignore=("layer1.*",)))
    assert not any(t.layer.startswith("layer1") for site in without for t in site.targets)
    assert {site.targets[0].norm for site in alone} >= {"layer1.0.bn1", "layer3.2.bn2"}


def test_the_first_convolution_is_the_one_that_runs_first() -> None:
    class Late(nn.Module):
        """Its stem is registered last."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(8, 6, 3, bias=False)
            self.head = nn.Linear(6, 10)
            self.stem = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.body(self.stem(x).relu()).relu().mean((2, 3)))
            return out

    model = Late()
    sites = attention_sites.find(model, analyse(model, IMAGE), AttentionOptions())
    assert [site.name for site in sites] == ["body"]
    step = plan_quantization(model, IMAGE, AttentionOptions(weights=4, activations=4), [IMAGE]).step
    assert step.weights["stem"] == 8
    assert step.weights["body"] == 4


def test_grouped_transposed_convolutions_have_no_vector() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 12, 2, groups=2),
        nn.ReLU(), nn.Conv2d(12, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10),
    )  # fmt: skip
    net = attended(model, per="group")
    assert {target.layer for site in net.sites for target in site.targets} == {"1", "5"}
    net.model(IMAGE)


def test_prices_average_to_one_and_follow_the_cost() -> None:
    model = ps.models.create("resnet20", stem="small")
    graph = analyse(model, IMAGE)
    for price in ("params", "macs"):
        sites = attention_sites.find(model, graph, AttentionOptions(price=price))
        mean = sum(site.price * site.units for site in sites) / sum(site.units for site in sites)
        assert mean == pytest.approx(1.0)
    by_name = {
        site.name: site.price for site in attention_sites.find(model, graph, AttentionOptions(price="params"))
    }
    # an inner channel of stage 3 costs 2 · 9 · 64 + 2 parameters, one of stage 1 2 · 9 · 16 + 2
    assert by_name["layer3.1.conv1"] / by_name["layer1.1.conv1"] == pytest.approx(
        (18 * 64 + 2) / (18 * 16 + 2)
    )


def test_depthwise_convolutions_pass_channels_on() -> None:
    model = ps.models.create("mobilenetv2", stem="small")
    graph = analyse(model, IMAGE)
    sites = attention_sites.find(model, graph, AttentionOptions())
    scaled = {target.layer for site in sites for target in site.targets}
    assert "features.2.conv.0.0" in scaled
    assert "features.2.conv.1.0" not in scaled  # depthwise: its channels are those it reads


def test_evaluation_changes_nothing() -> None:
    net = attended(busy(ps.models.create("resnet20", stem="small")))
    before = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
    net.model.eval()
    net.model(IMAGE)
    net.values()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.model.state_dict().items())


def test_constants_of_removed_channels_go_to_the_layers_that_read_them() -> None:
    """A 1×1 reader has no border: silencing channels whose attention is zero changes nothing at all."""
    torch.manual_seed(0)
    model = busy(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
        )
    )  # fmt: skip
    net = attended(model)
    net.model.eval()
    for attention in net.vectors:
        attention.attention.data[:2] = 0.0
        attention.remove(attention.vanished(1e-4))
    for number in (4, 7):
        net.model[number].running_mean[:2] = 0.0  # what training makes of the mean of a channel of zeros
    before = net.model(IMAGE)
    net.refresh(fold=True)
    after = net.model(IMAGE)
    norm = net.model[4]
    assert norm.bias.data[:2].tolist() == [0.0, 0.0]
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "mean"}, "normalize 'mean'"),
        ({"start": (0.9, 0.4)}, "start"),
        ({"weights": 4}, "needs both"),
        ({"weights": 4, "activations": 8, "at": "norm"}, "folded"),
        ({"target": 1.5}, "out of range"),
        ({"percentile": -1}, "out of range"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AttentionOptions(**options)  # type: ignore[arg-type]


def test_nothing_to_attend_to() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(InputError, match="no convolution"):
        attended(linear)
    with pytest.raises(InputError, match="matches no layer"):
        attended(ps.models.create("resnet20", stem="small"), ignore=("nowhere.*",))
