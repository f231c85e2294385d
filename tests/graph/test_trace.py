from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pintsize import errors, graph


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.b(F.relu(self.a(F.relu(x)))))


def test_ops_know_their_module_their_call_and_their_parameters() -> None:
    trace = graph.record(Tied(), torch.randn(2, 3))
    assert [op.module for op in trace.ops if "relu" in str(op.func)] == ["", ""]
    products = [op for op in trace.ops if "addmm" in str(op.func)]
    assert [op.module for op in products] == ["a", "b"]
    assert [op.args[0].name for op in products] == ["a.bias", "b.bias"]
    assert trace.aliases == {"b.weight": "a.weight"}
    relus = [op.call for op in trace.ops if "relu" in str(op.func)]
    assert [call.occurrence for call in relus if call] == [0, 1]


def test_mode_buffers_and_gradients_are_as_before() -> None:
    model = Tied()
    model.b.eval()
    mean = model.norm.running_mean.clone()
    trace = graph.record(model, torch.randn(2, 3))
    assert [m.training for m in (model, model.a, model.b, model.norm)] == [True, True, False, True]
    assert torch.equal(model.norm.running_mean, mean)
    assert model.a.weight.grad is None
    assert [tuple(v.shape) for v in trace.outputs] == [(2, 3)]


def test_a_forward_that_fails_is_reported_with_shapes_and_module() -> None:
    with pytest.raises(errors.OperationError, match=r"shape \(2, 4\).*module 'a' raised RuntimeError"):
        graph.record(Tied(), torch.randn(2, 4))


@pytest.mark.parametrize("example", ["image.png", None, (), 3])
def test_an_example_that_is_no_input_is_refused(example: object) -> None:
    with pytest.raises(errors.InputError, match="it is not an input of the network"):
        graph.record(Tied(), example)


def test_fused_attention_is_recorded_as_its_parts() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    trace = graph.record(layer, torch.randn(2, 5, 8))
    assert not any("transformer_encoder" in str(op.func) for op in trace.ops)
    assert {name for op in trace.ops for v in op.inputs if (name := v.name)} == set(trace.parameters)
