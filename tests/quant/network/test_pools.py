"""By what pools divide: held against the derivative of each mean, which is one over that number."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pintsize.graph import trace
from pintsize.quant.network.pools import divisors

POOLS = {
    "mean": lambda x: x.mean((2, 3)),
    "mean of all": lambda x: x.mean(),
    "negative dimensions": lambda x: x.mean((-1, -2), keepdim=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1),
    "unequal windows": lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    "windows": lambda x: F.avg_pool2d(x, 2),
    "padded": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "padding not counted": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "ceil": lambda x: F.avg_pool2d(x, (2, 4), ceil_mode=True),
    "ceil and padding": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "own divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "one dimension": lambda x: F.avg_pool1d(x.flatten(2), 5, 3, 2, count_include_pad=False),
}


class Pool(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.pool = pool

    def forward(self, x):
        return self.pool(x)


@pytest.mark.parametrize("name", POOLS)
def test_divisors(name):
    x = torch.randn(1, 1, 10, 7, requires_grad=True)
    found = {number for op in trace.record(Pool(POOLS[name]), x.detach()).ops for number in divisors(op)}
    wanted = set()
    for mean in POOLS[name](x).flatten():
        (each,) = torch.autograd.grad(mean, x, retain_graph=True)
        wanted |= {round(1 / float(one)) for one in each[each > 0]}
    assert found == wanted
