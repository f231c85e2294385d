"""Where quantizers go, on small networks whose right answer is written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pintsize as ps
from pintsize.graph import trace
from pintsize.graph.trace import CallKey
from pintsize.quant.network import flow, placement
from pintsize.quant.network.placement import Pair


def plan(model, x, *, bits=8, ignore=(), outputs=False):
    model = model.eval()
    graph = flow.build(trace.record(model, x), model, ignore=ignore)
    return placement.plan(graph, dict.fromkeys(placement.layers(graph), bits), outputs=outputs)


def where(plan):
    return [p.label for p in plan.activations]


def conv(i, o, k=1, **options):
    return nn.Conv2d(i, o, k, **options)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(2, 4), conv(4, 4), conv(4, 4), nn.Linear(4, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.stem(x))
        y = self.b(self.relu(self.a(x)))
        y += x
        y = self.relu(y)
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


def test_residual_with_inplace_operations():
    found = plan(Residual(), torch.randn(2, 2, 5, 5))
    assert where(found) == [
        "input 0",
        "relu (relu 0)",
        "relu (relu 1)",
        "b (conv2d 0)",  # straight into the add: quantized as its operand
        "relu (relu 2)",  # of the sum; the add's own result is inside of the kernel
        "network (adaptive_avg_pool2d 0)",
    ]
    assert found.inputs == {
        "stem": "input_0",
        "a": "relu__relu_0",
        "b": "relu__relu_1",
        "head": "network__adaptive_avg_pool2d_0",
    }
    assert found.pairs == {
        "relu__relu_2": [Pair("b__conv2d_0", "relu__relu_0", product=False)],
        "network__adaptive_avg_pool2d_0": [Pair("relu__relu_2", None, product=False, divisors=(25,))],
    }


def test_logits_are_quantized_on_demand_only():
    model = nn.Sequential(conv(2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.LogSoftmax(1))
    x = torch.randn(2, 2, 2, 2)
    assert where(plan(model, x)) == ["input 0", "1 (relu 0)"]
    assert where(plan(model, x, outputs=True)) == ["input 0", "1 (relu 0)", "3 (linear 0)"]


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(2, 2), conv(2, 2), conv(6, 2)

    def forward(self, x):
        x = F.relu(self.a(x))
        y = torch.cat([x, self.b(x), F.max_pool2d(x, 3, 1, 1)], 1)
        return self.c(y)


def functions(placement, *, echo):
    return [p.function.rpartition(".")[2] for p in placement.places if p.echo == echo]


def test_what_ends_in_a_relu_keeps_its_own_scale_beside_what_does_not():
    found = plan(Concat(), torch.randn(2, 2, 5, 5))
    assert where(found) == ["input 0", "network (relu 0)", "b (conv2d 0)"]
    assert (functions(found.activations[1], echo=False), functions(found.activations[1], echo=True)) == (
        ["relu"],
        ["max_pool2d"],
    )
    # the concatenation rounds to the scale that the operand without a ReLU has, too
    assert (functions(found.activations[2], echo=False), functions(found.activations[2], echo=True)) == (
        ["conv2d", "cat"],
        [],
    )
    assert found.inputs["c"] == "b__conv2d_0"
    assert found.pairs == {"b__conv2d_0": [Pair("network__relu_0", None, product=False)]}


class Three(nn.Module):
    def __init__(self, *activations):
        super().__init__()
        self.parts = nn.ModuleList(conv(2, 2) for _ in activations)
        self.last, self.activations = conv(2 * len(activations), 2), activations

    def forward(self, x):
        return self.last(
            torch.cat([f(part(x)) for f, part in zip(self.activations, self.parts, strict=True)], 1)
        )


def test_equal_activations_share_one_scale_in_a_concatenation():
    found = plan(Three(F.relu, F.relu, F.relu), torch.randn(2, 2, 5, 5))
    assert where(found) == ["input 0", "network (relu 0)"]
    assert functions(found.activations[1], echo=False) == ["relu"] * 3


def test_different_activations_keep_their_scales_and_the_concatenation_has_its_own():
    found = plan(Three(F.relu, F.relu6, F.relu), torch.randn(2, 2, 5, 5))
    assert where(found) == [
        "input 0",
        "network (relu 0)",
        "network (relu6 0)",
        "network (relu 1)",
        "network (cat 0)",
    ]
    assert found.inputs["last"] == "network__cat_0"
    rounded = [
        Pair(name, None, product=False) for name in ("network__relu_0", "network__relu6_0", "network__relu_1")
    ]
    assert found.pairs == {"network__cat_0": rounded}


def test_the_same_function_by_two_names_has_two_quantizers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = conv(2, 2), conv(2, 2), conv(2, 2)

        def forward(self, x):
            return self.c(torch.relu(self.b(F.relu(self.a(x)).contiguous())).relu())

    found = plan(Net(), torch.randn(2, 2, 3, 3))
    assert len({p.name for p in found.activations}) == len(found.activations) == 3


NOTHING = {
    "add 0": lambda x: x + 0,
    "0 +": lambda x: 0 + x,
    "add_ 0": lambda x: x.add_(0),
    "subtract 0": lambda x: x - 0.0,
    "multiply by 1": lambda x: 1 * x,
    "divide by 1": lambda x: x / 1,
    "power 1": lambda x: x**1,
    "add zeros": lambda x: x + torch.zeros(1, 4, 1, 1),
    "add zeros like it": lambda x: x + torch.zeros_like(x),
    "multiply by ones": lambda x: torch.ones(4, 1, 1) * x,
    "multiply by full": lambda x: x.mul(torch.full((1,), 1.0)),
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.contiguous(memory_format=torch.channels_last),
    "to": lambda x: x.to(torch.float32, copy=True),
    "view": lambda x: x.view(x.shape),
    "slice": lambda x: x[:, :4, :3],
    "expand": lambda x: x.expand_as(x),
    "permute": lambda x: x.permute(0, 1, 2, 3),
    "cat": lambda x: torch.cat([x], 1),
    "pool": lambda x: F.avg_pool2d(x, 1),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "Identity": nn.Identity(),
    "result nothing reads": lambda x: (x.sum(), x)[1],
}
SOMETHING = {
    "add 1": lambda x: x + 1,
    "multiply by 0": lambda x: x * 0,
    "divide, rounded": lambda x: x.div(1, rounding_mode="floor"),
    "zero minus": lambda x: 0 - x,
    "one through": lambda x: 1 / x,
    "add ones": lambda x: x + torch.ones(1, 4, 1, 1),
    "add what is no longer zeros": lambda x: x + torch.zeros(4, 1, 1).add_(1),
    "square": lambda x: x**2,
}


class Between(nn.Module):
    """Something between a convolution and its ReLU."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = conv(2, 4), conv(4, 2), function

    def forward(self, x):
        return self.b(self.function(self.a(x)).relu())


@pytest.mark.parametrize("name", NOTHING)
def test_what_does_nothing_is_no_boundary(name):
    assert where(plan(Between(NOTHING[name]), torch.randn(2, 2, 3, 3))) == ["input 0", "network (relu 0)"]


@pytest.mark.parametrize("name", SOMETHING)
def test_what_does_something_is_a_boundary(name):
    assert "a (conv2d 0)" in where(plan(Between(SOMETHING[name]), torch.randn(2, 2, 3, 3)))


def test_a_parameter_of_ones_may_change_in_training():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x):
            return x * self.gamma

    assert "a (conv2d 0)" in where(plan(Between(Scaled()), torch.randn(2, 2, 3, 3)))


def test_calls_that_do_nothing_are_made_in_files_only_if_a_write_tells_their_ends_apart():
    def written(x):
        y = x.clone()
        y += 1  # of the copy alone
        return x.relu() + y

    assert plan(Between(NOTHING["clone"]), torch.randn(2, 2, 3, 3)).skips == {
        CallKey("", "torch.Tensor.clone", 0): 0
    }
    assert plan(Between(written), torch.randn(2, 2, 3, 3)).skips == {}
    assert plan(Between(NOTHING["slice"]), torch.randn(2, 2, 3, 3)).skips == {}  # more images, another size


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.out = conv(2, 8), conv(4, 4), conv(8, 2)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        left, right = x.chunk(2, 1)
        y = torch.cat((left, torch.relu(self.a(right))), 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.out(y)


def test_chunk_and_channel_shuffle_carry_the_scale():
    found = plan(Shuffle(), torch.randn(2, 2, 3, 3))
    assert where(found) == ["input 0", "network (relu 0)"]
    assert [p.label for p in found.activations[1].places if not p.echo] == [
        "network (relu 0)",
        "network (relu 1)",
    ]
    assert found.inputs["a"] == found.inputs["out"] == "network__relu_0"


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.down, self.up, self.b = conv(2, 4), conv(4, 2), conv(2, 4), conv(4, 2)

    def forward(self, x):
        x = F.relu6(self.a(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.b(x * gate)


def test_gates_are_integer_multiplications():
    assert where(plan(SqueezeExcite(), torch.randn(2, 2, 4, 4))) == [
        "input 0",
        "network (relu6 0)",
        "network (mean 0)",
        "network (relu 0)",
        "up (conv2d 0)",  # so that the convolution ends in integers; the sigmoid is computed from them
        "network (sigmoid 0)",
        "network (mul 0)",
    ]


class PreActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = conv(2, 4), nn.BatchNorm2d(4), conv(4, 4)

    def forward(self, x):
        x = self.a(x)
        return x + self.b(F.relu(self.norm(x)))  # the result of the network: stays float


def test_a_norm_that_cannot_be_folded_ends_the_integer_region():
    # its ReLU begins it anew; `b` and the sum lead to the result alone, but `a` does not
    assert where(plan(PreActivation(), torch.randn(2, 2, 3, 3))) == [
        "input 0",
        "a (conv2d 0)",
        "network (relu 0)",
    ]


def test_a_kept_norm_is_part_of_the_kernel():
    model = nn.Sequential(conv(2, 2), nn.BatchNorm2d(2), nn.ReLU(), conv(2, 2))
    assert where(plan(model, torch.randn(2, 2, 3, 3))) == ["input 0", "2 (relu 0)"]


class Scalars(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(2, 2), conv(2, 2)
        self.shift = nn.Parameter(torch.zeros(2, 1, 1))

    def forward(self, x):
        x = (x - 0.5) * 2 + self.shift  # float: no kernel reads in between
        x = self.a(x)
        x = F.softplus(x) + 1
        return self.b(x)


def test_scalars_and_parameters_are_float_arithmetic():
    assert where(plan(Scalars(), torch.randn(2, 2, 3, 3))) == [
        "network (add 0)",
        "a (conv2d 0)",
        "network (add 1)",
    ]


class SeparateRelu(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(2, 2), conv(2, 2), conv(2, 2)

    def forward(self, x):
        x = self.a(x)
        return self.b(F.relu(x)), self.c(x)


def test_a_relu_beside_another_reader_keeps_the_levels():
    found = plan(SeparateRelu(), torch.randn(2, 2, 3, 3))
    assert where(found) == ["input 0", "a (conv2d 0)"]
    assert [p.label for p in found.activations[1].places if p.echo] == ["network (relu 0)"]


def test_ignored_layers_neither_read_nor_give_integers():
    found = plan(Residual(), torch.randn(2, 2, 5, 5), ignore={"a"})
    assert "a" not in found.layers
    assert where(found) == [
        "input 0",
        "relu (relu 0)",
        "relu (relu 1)",
        "b (conv2d 0)",
        "relu (relu 2)",
        "network (adaptive_avg_pool2d 0)",
    ]
    assert where(plan(nn.Sequential(conv(2, 2), nn.ReLU()), torch.randn(1, 2, 2, 2), ignore={"0"})) == []


def test_low_bits_only_where_a_layer_alone_reads():
    found = plan(Residual(), torch.randn(2, 2, 5, 5), bits=4)
    bits = {p.label: p.bits for p in found.activations}
    assert bits["relu (relu 1)"] == 4  # read by `b` alone
    assert bits["relu (relu 0)"] == 8  # the add reads it, too …
    assert found.input_bits == {"a": 4}  # … so `a` rounds it further
    assert bits["b (conv2d 0)"] == 8


class Linear3d(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2, bias=False)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)) + self.a(x))


def test_linear_on_sequences_and_a_layer_run_twice():
    assert where(plan(Linear3d(), torch.randn(2, 3, 4))) == [
        "input 0",
        "network (relu 0)",
        "a (linear 1)",
        "network (add 0)",
    ]


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(2, 2), conv(2, 2)

    def forward(self, x):
        x = self.a(x)
        x[:, :1] += 1.0  # changes what `x` holds, behind its back
        return self.b(x)


def test_a_write_through_a_view_is_not_mistaken_for_the_convolution():
    found = plan(Views(), torch.randn(2, 2, 3, 3))
    assert where(found) == ["input 0", "a (conv2d 0)"]  # on its own, as what is written behind it is float
    assert "b" not in found.inputs


def test_what_pads_in_a_circle_is_quantized_in_front_of_the_convolution():
    model = nn.Sequential(conv(2, 2), nn.ReLU(), conv(2, 2, 3, padding=1, padding_mode="circular"))
    found = plan(model, torch.randn(2, 2, 5, 5))
    assert where(found) == ["input 0", "1 (relu 0)", "2 (pad 0)"]


def test_a_weight_computed_in_forward_is_left_alone():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight - self.weight.mean(), self.bias)

    found = plan(nn.Sequential(Standardised(2, 2, 1), nn.ReLU(), conv(2, 2)), torch.randn(1, 2, 2, 2))
    assert found.layers == ["2"]
    assert where(found) == ["1 (relu 0)"]


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_with_the_weight_of_another_module_is_told(bias):
    class Outside(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = nn.Linear(8, 16, bias=False), nn.Linear(16, 4)
            self.bias = nn.Parameter(torch.randn(16)) if bias else None

        def forward(self, x):
            return self.last(nn.functional.linear(x, self.inner.weight, self.bias).relu())

    result = ps.quantize(Outside().eval(), calibration=torch.randn(8, 8), progress=False)
    assert [layer.reason for layer in result.in_float if "no parameter of" in layer.reason]
