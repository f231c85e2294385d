"""Runs of other tasks than classification: what of a task is refused before training, and what a run is known by."""

import json

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError

IMAGES = torch.rand(24, 1, 6, 6, generator=torch.Generator().manual_seed(0))
SHADES = torch.utils.data.TensorDataset(IMAGES, (IMAGES[:, 0] > 0.5).long())
QUICK = {"epochs": 1, "ratio": 0.5, "recover_epochs": 1, "batch_size": 8, "progress": False}


def shader():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 1))


def own_loss(model, images, masks):
    return nn.functional.cross_entropy(model(images), masks)


def right(outputs, masks):
    return 100 * float((outputs.argmax(1) == masks).float().mean())


def test_networks_that_compute_their_loss_are_recovered_without_a_teacher(tmp_path):
    task, data = ps.Task(step=own_loss, metric=right), ps.data.from_loaders(SHADES)
    result = ps.compress(shader(), data, task=task, out=tmp_path / "run", **QUICK)
    assert [stage["metric_name"] for stage in result.stages][:2] == ["right", "right"]
    with pytest.raises(InputError, match="distill with task .* computes its loss itself; leave it out"):
        ps.compress(shader(), data, task=task, out=tmp_path / "other", distill=True, **QUICK)
    assert not (tmp_path / "other" / "dense.safetensors").exists()


def test_a_run_of_another_option_of_the_task_is_made_anew(tmp_path):
    data, counted = ps.data.from_loaders(SHADES), []

    def run(task):
        counted.append(0)

        def count(stage, entry):
            counted[-1] += 1

        return ps.compress(shader(), data, task=task, out=tmp_path / "run", on_epoch=count, **QUICK)

    first = run({"name": "segmentation"})
    again = run({"name": "segmentation", "ignore_index": 255})
    other = run({"name": "segmentation", "ignore_index": 0})
    assert counted == [2, 0, 2]
    figures = [json.dumps([stage["metric"] for stage in each.stages]) for each in (first, again, other)]
    assert figures[0] == figures[1] != figures[2]
