from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError, InputTypeError
from pintsize.tasks.classification import soft_loss
from pintsize.training import train


def test_soft_loss_by_hand():
    """T = 2: the teacher's softened probabilities are (3/4, 1/4), the student's (1/2, 1/2)."""
    teacher = torch.tensor([[2 * math.log(3), 0.0]])
    student = torch.tensor([[5.0, 5.0]])
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert soft_loss(student, teacher, 2.0).item() == pytest.approx(expected)
    assert soft_loss(student.repeat(3, 1), teacher.repeat(3, 1), 2.0).item() == pytest.approx(3 * expected)
    assert soft_loss(teacher, teacher, 2.0).item() == pytest.approx(0.0, abs=1e-6)


def small(num_classes=10):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


@pytest.fixture(scope="module")
def digits():
    return ps.data.load("digits", limit=200)


def test_with_all_the_weight_the_student_becomes_the_teacher(digits):
    teacher = small()
    nn.init.normal_(teacher[1].weight, std=0.3, generator=torch.Generator().manual_seed(3))
    before = copy.deepcopy(teacher.state_dict())
    student = small()
    history = train(student, digits, epochs=15, lr=0.05, batch_size=20, teacher=teacher, distill_weight=1.0, augment=False,
                    weight_decay=0, precision="fp32", progress=False)  # fmt: skip
    assert history[-1]["train_loss"] < 0.1 * history[0]["train_loss"]
    images, _ = next(digits.train.batches(200))
    same = teacher(images).argmax(1) == student(images).argmax(1)
    assert same.float().mean() > 0.8  # a random teacher: by chance, or from the labels, 0.1
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert teacher.training


def test_weight_zero_is_training_without_a_teacher(digits):
    alone, taught = small(), small()
    train(alone, digits, epochs=1, lr=0.1, progress=False)
    train(taught, digits, epochs=1, lr=0.1, progress=False, teacher=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
          distill_weight=0.0)  # fmt: skip
    assert torch.equal(alone[1].weight, taught[1].weight)


def test_teachers_that_cannot_teach(digits):
    student = small()
    with pytest.raises(InputError, match="shares parameters"):
        train(student, digits, epochs=1, teacher=student, progress=False)
    with pytest.raises(InputTypeError, match="not a network"):
        train(student, digits, epochs=1, teacher="resnet18", progress=False)
    with pytest.raises(InputError, match="teacher with 12 outputs"):
        train(student, digits, epochs=1, teacher=small(12), progress=False)
