"""What has to follow a cut beside the weights: attributes, gradients, sharing, optimisers, memory format."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import pintsize as ps
from structures import CASES


def pruned(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = CASES[name].make()
    ps.prune(model, CASES[name].example(), **{"ratio": 0.5, "scope": "local", **options})
    return model


def test_attributes_of_every_kind_of_layer() -> None:
    model = pruned("ChannelMultiplier")
    assert (
        model.multiply.conv.in_channels,
        model.multiply.conv.out_channels,
        model.multiply.conv.groups,
    ) == (3, 6, 3)
    assert model.multiply.norm.num_features == 6
    model = pruned("Transposed")
    assert (model.up.in_channels, model.up.out_channels) == (4, 6)
    assert (model.grouped.in_channels, model.grouped.out_channels, model.grouped.groups) == (6, 4, 2)
    assert pruned("PReLUs").per_channel.num_parameters == 4
    assert pruned("LayerNormImage").norm.normalized_shape == (4, 8, 8)
    model = pruned("GroupNormGroupedConv")
    assert (model.norm.num_channels, model.norm.num_groups, model.grouped.in_channels) == (8, 4, 8)
    model = pruned("Embedding")
    assert (model.emb.embedding_dim, model.norm.normalized_shape, model.fc.in_features) == (4, (4,), 4)
    model = pruned("InstanceNormTracked")
    assert (model.norm.num_features, model.plain.num_features) == (4, 3)


def test_attributes_of_the_users_modules() -> None:
    assert pruned("ViewByAttribute").out_channels == 4
    assert pruned("PaddedShortcutModule").short.padding == (0, 0, 0, 0, 1, 2)
    model = pruned("ViTFree")
    assert [a.num_heads for a in model.attentions] == [2, 2]
    assert [a.head_dim for a in model.attentions] == [3, 3]
    assert pruned("Res2Net").block.width == 3


def test_names_of_parameters_and_the_mode_stay() -> None:
    model = CASES["SqueezeExcite"].make()
    model.a.norm.eval()
    names = list(model.state_dict())
    ps.prune(model, CASES["SqueezeExcite"].example(), ratio=0.5)
    assert list(model.state_dict()) == names
    assert (model.training, model.a.norm.training) == (True, False)


def test_tied_parameters_stay_one() -> None:
    model = pruned("TiedWeights")
    assert model.twin.weight is model.fc.weight
    assert tuple(model.fc.weight.shape) == (8, 12)
    assert (model.twin.out_features, model.fc.out_features) == (8, 8)


def test_gradients_are_cut_alike_and_frozen_parameters_stay_frozen() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].bias.requires_grad_(False)
    model(torch.randn(5, 3)).sum().backward()
    before = model[0].weight.grad.clone()
    plan = ps.prune(model, torch.randn(5, 3), ratio=0.5)
    kept = [i for i in range(4) if i not in plan.removed["0.weight"][0]]
    assert torch.equal(model[0].weight.grad, before[kept])
    assert model[0].weight.requires_grad
    assert not model[0].bias.requires_grad
    assert model[0].bias.grad is None


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimiser_goes_on_with_its_state(kind: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = kind(model.parameters(), lr=0.1, **options)
    x = torch.randn(5, 3)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    states = {k: copy.deepcopy(optimizer.state[model[0].weight]) for k in range(1)}
    plan = ps.prune(model, x, ratio=0.5, optimizer=optimizer)
    kept = [i for i in range(4) if i not in plan.removed["0.weight"][0]]
    for key, value in states[0].items():
        now = optimizer.state[model[0].weight][key]
        if torch.is_tensor(value) and value.dim() == 2:
            assert torch.equal(now, value[kept])
        else:
            assert now == value
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}
    assert len(optimizer.state) == 4
    optimizer.zero_grad()
    model(x).square().sum().backward()
    weight = model[0].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model[0].weight, weight)


def test_channels_last_stays_channels_last() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(
        memory_format=torch.channels_last
    )
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    ps.prune(model, x, ratio=0.5)
    assert model[2].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = CASES["Residual"].make().to(dtype).eval()
    plan = ps.prune(model, CASES["Residual"].example().to(dtype), ratio=0.5)
    assert plan.removed
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_a_network_of_heads_that_pytorch_forbids_runs_and_trains() -> None:
    """nn.MultiheadAttention demands that its inner width is its outer one; fewer heads break that."""
    model = pruned("ViT")
    attention = model.blocks[0].attention
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (2, 3, 6)
    assert tuple(attention.in_proj_weight.shape) == (18, 6)
    assert tuple(attention.out_proj.weight.shape) == (6, 6)
    model.train()(CASES["ViT"].example()).sum().backward()
    assert attention.in_proj_weight.grad is not None


def test_an_optimiser_takes_up_the_biases_that_layers_get() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False), nn.Conv2d(4, 2, 1)
    )
    nn.init.ones_(model[1].bias)
    rest = [p for k in (0, 1, 4) for p in model[k].parameters()]
    optimizer = torch.optim.SGD([{"params": rest}, {"params": [model[3].weight], "lr": 0.01}], lr=0.1)
    plan = ps.prune(model, torch.randn(2, 3, 4, 4), ratio=0.5, scope="local", optimizer=optimizer)
    assert plan.biases == ("3",)
    assert {id(p) for p in optimizer.param_groups[1]["params"]} == {id(p) for p in model[3].parameters()}
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}


def test_a_copy_that_never_runs_follows_its_shared_parameters() -> None:
    model = pruned("SharedWithAnIdleCopy")
    assert model.idle.weight is model.norm.weight
    assert (model.idle.num_features, model.idle.running_mean.shape) == (4, (4,))
    assert model.idle.eval()(torch.randn(1, 4, 2, 2)).shape == (1, 4, 2, 2)


def test_norms_of_parameters_and_of_what_nobody_reads_keep_their_attributes_right() -> None:
    assert pruned("Latents").norm.normalized_shape == (4,)
    model = pruned("Computed")
    assert (model.across.norm.num_features, tuple(model.across.norm.weight.shape)) == (3, (3,))


def test_heads_of_training_are_cut_with_the_network_and_leave_no_trace() -> None:
    model = CASES["AuxiliaryHead"].make()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    ps.channel_groups(model, CASES["AuxiliaryHead"].example())
    drawn = torch.get_rng_state()
    torch.set_rng_state(random)
    CASES["AuxiliaryHead"].example()
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    ps.prune(model, CASES["AuxiliaryHead"].example(), ratio=0.5, scope="local")
    assert (model.aux.conv.in_channels, model.aux.conv.out_channels, model.score.fc.in_features) == (4, 2, 2)
    main, side = model.train()(CASES["AuxiliaryHead"].example())
    assert main.shape == side.shape


def test_torchscript_is_refused_by_name_and_gets_no_hooks() -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        scripted = torch.jit.trace(nn.Conv2d(8, 4, 1), torch.randn(1, 8, 2, 2))
    model = nn.Sequential(nn.Conv2d(3, 8, 1), scripted)
    with pytest.raises(ps.errors.InputError, match=r"module '1': it is compiled by TorchScript"):
        ps.prune(model, torch.randn(1, 3, 2, 2), ratio=0.5)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_encoder_layer_with_fewer_heads_runs_where_pytorch_would_take_its_fused_kernel() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True)
    model, x = nn.Sequential(nn.Linear(5, 16), layer, nn.Linear(16, 3)), torch.randn(2, 7, 5)
    ps.prune(model, x, scope="local", ratios={"1.self_attn": 0.5}, ignore="0")
    assert (layer.self_attn.num_heads, layer.self_attn.embed_dim) == (2, 16)
    slow = model.eval()(x)  # with gradients PyTorch takes the layer's parts
    with torch.no_grad():
        assert torch.allclose(model(x), slow, atol=1e-6)
