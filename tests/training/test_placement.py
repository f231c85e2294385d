import subprocess
import sys

import pytest
import torch
from torch import nn

from pintsize.training.placement import laid_out_on, layout_for

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("layer", "layout"),
    [
        (nn.Conv2d(10, 25, 1, stride=2), torch.contiguous_format),
        (nn.Conv2d(32, 32, 1, stride=2, groups=4), torch.contiguous_format),
        (nn.Conv2d(16, 25, 1, stride=2), torch.channels_last),
        (nn.Conv2d(10, 25, 1), torch.channels_last),
        (nn.Conv2d(10, 25, 3, stride=2), torch.channels_last),
        (nn.Linear(3, 4), torch.channels_last),
    ],
)
def test_channels_last_is_left_out_where_the_cpu_gets_it_wrong(layer, layout):
    assert layout_for(nn.Sequential(nn.Conv2d(3, 10, 3), layer), CPU) == layout


def test_gpus_are_not_concerned():
    assert layout_for(nn.Conv2d(10, 25, 1, stride=2), torch.device("cuda")) == torch.channels_last


def test_weights_are_laid_out_meanwhile_and_put_back():
    conv = nn.Conv2d(3, 8, 3)
    with laid_out_on(conv, CPU, torch.channels_last):
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)
        assert not conv.weight.is_contiguous()
    assert conv.weight.is_contiguous()


def test_a_strided_projection_of_few_channels_is_trained_without_a_crash():
    # in a process of its own: in channels-last it dies of a corrupted heap, if there are two threads
    script = """
import dataclasses, torch, pintsize as ps
from torch import nn
torch.set_num_threads(2)
data = ps.data.load("digits", image_size=16)
data = dataclasses.replace(data, train=data.train.subset(39), val=data.val.subset(20))
net = nn.Sequential(nn.Conv2d(1, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 25, 1, stride=2),
                    nn.ReLU(), nn.Flatten(), nn.Linear(25 * 64, 10))
ps.train(net, data, epochs=20, batch_size=13, lr=0.01, progress=False)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
