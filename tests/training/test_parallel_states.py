"""Masks, attention and quantizers are the same in all processes, and what one process makes of them."""

import torch

SCRIPT = """
import hashlib, os, sys
import torch
from torch import nn
import pintsize as ps
from pintsize.pruning import Sparsify, prune_by_attention
from pintsize.pruning.weights.schedules import Polynomial
from pintsize.training import train

rank = int(os.environ.get("RANK", 0))
data = ps.data.load("digits", limit=110)

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Conv2d(8, 8, 3, padding=1, bias=False),
                         nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))

masked = network()
train(masked, data, epochs=4, lr=0.05, batch_size=23, precision="fp32", progress=False,
      callbacks=[Sparsify(Polynomial(0.3, begin=1, end=3, every=2), data=data)])
attended = network()
found = prune_by_attention(attended, data, attention_epochs=2, recovery_epochs=2, batch_size=23, precision="fp32",
                           attention_lr=0.1, threshold=0.2, attention_weight=0.5, keep_first=False, progress=False)
both = network()
prune_by_attention(both, data, attention_epochs=2, recovery_epochs=1, batch_size=23, precision="fp32", weights=4,
                   activations=8, attention_lr=0.1, threshold=0.2, attention_weight=0.5, progress=False)
quantized = network().eval()
ps.quantize(quantized, calibration=data.train, method="lsq")
train(quantized, data, epochs=2, lr=0.01, batch_size=23, precision="fp32", progress=False)

models = {"masked": masked, "attended": attended, "both": both, "quantized": quantized}
states = {name: model.state_dict() for name, model in models.items()}
if "WORLD_SIZE" in os.environ:
    def digest(state):
        return [(key, hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()) for key, value in state.items()]
    every = [None, None]
    torch.distributed.all_gather_object(every, {name: digest(state) for name, state in states.items()})
    for name in states:
        differing = [a[0] for a, b in zip(every[0][name], every[1][name], strict=True) if a != b]
        assert not differing, (name, differing)
if rank == 0:
    torch.save({**states, "removed": sum(row["removed"] for row in found.history)}, sys.argv[1])
"""


def test_every_process_ends_with_the_same_state_as_one_alone(tmp_path, launch):
    for name, processes in (("one", 1), ("two", 2)):
        launch(SCRIPT, tmp_path / name, processes=processes)
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    assert one["removed"] == two["removed"] > 0
    # Adam divides by the gradient's size: where that is rounding, so is the direction of the step
    for name, tolerance in (("masked", 1e-5), ("attended", 2e-3)):
        for key, tensor in one[name].items():
            assert torch.allclose(two[name][key].double(), tensor.double(), rtol=0, atol=tolerance), (
                name,
                key,
            )
    zeros = [(tensor == 0).sum().item() for key, tensor in one["masked"].items() if tensor.ndim > 1]
    assert zeros == [(two["masked"][key] == 0).sum().item() for key, t in one["masked"].items() if t.ndim > 1]
    # a value on the edge between two integers may fall on either side: the ranges agree all the same
    for key, tensor in one["quantized"].items():
        assert torch.allclose(two["quantized"][key].double(), tensor.double(), rtol=0.05, atol=0.05), key
