"""Losses and metrics of the named tasks against numbers worked out by hand."""

import math

import pytest
import torch
from torchmetrics import MeanAbsoluteError

import pintsize as ps
from pintsize.errors import InputError, InputTypeError, OperationError
from pintsize.tasks.metric import OfBatches, as_metric, value_of


def value(task, outputs, targets):
    metric = ps.tasks.task_of(task).judged()
    return metric.value(list(metric.records(outputs, targets)))


def test_top_k_accuracy():
    logits = torch.tensor([[3.0, 2, 1, 0], [0, 1, 2, 3], [0, 3, 2, 1]])
    classes = torch.tensor([0, 2, 0])
    assert value("classification", logits, classes) == pytest.approx(100 / 3)
    assert value({"name": "classification", "top": 2}, logits, classes) == pytest.approx(200 / 3)


def test_mean_iou_by_hand_and_without_ignored_pixels():
    masks = torch.tensor([[[0, 0, 1, 255]]])
    found = torch.tensor([[[0, 1, 1, 0]]])
    logits = torch.nn.functional.one_hot(found, 3).permute(0, 3, 1, 2).float()
    # class 0: 1 of 2, class 1: 1 of 2, class 2 does not occur
    assert value("segmentation", logits, masks) == pytest.approx(50)
    assert value("segmentation", {"out": logits}, masks) == pytest.approx(50)
    task = ps.tasks.task_of("segmentation")
    assert task.loss(logits, torch.full_like(masks, 255)) == 0
    expected = torch.nn.functional.cross_entropy(logits, masks, ignore_index=255)
    assert task.loss(logits, masks) == pytest.approx(float(expected))
    with_aux = {"out": logits, "aux": logits}
    assert task.loss(with_aux, masks) == pytest.approx(1.5 * float(expected))


def test_multilabel_average_precision():
    scores = torch.tensor([[4.0, 0], [3, 0], [2, 0], [1, 0]])
    truth = torch.tensor([[1.0, 0], [0, 0], [1, 0], [0, 0]])  # the second class does not occur
    assert value("multilabel", scores, truth) == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_regression_takes_columns_and_rows_for_the_same():
    assert value("regression", torch.tensor([[1.0], [4.0]]), torch.tensor([2.0, 2.0])) == pytest.approx(1.5)
    rmse = {"name": "regression", "metric": "rmse"}
    assert value(rmse, torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0])) == pytest.approx(math.sqrt(2.5))


def test_restoration():
    images = torch.rand(2, 3, 16, 16)
    assert value("restoration", images, images) == pytest.approx(100)
    assert value("restoration", images + 0.1, images) == pytest.approx(20, abs=1e-3)
    ssim = {"name": "restoration", "metric": "ssim"}
    assert value(ssim, images, images) == pytest.approx(1)
    assert value(ssim, torch.rand(2, 3, 16, 16), images) < 0.5


def test_keypoints_as_places_and_as_heat_maps():
    truth = torch.tensor([[[0.0, 0, 1], [10, 0, 1], [0, 10, 0]]])  # the last one is hidden
    places = torch.tensor([[[0.0, 1], [10, 3], [5, 5]]])
    assert value("keypoints", places, truth) == pytest.approx(50)  # within .2 · 10
    assert value({"name": "keypoints", "metric": "mae"}, places, truth) == pytest.approx(2)
    maps = torch.zeros(1, 3, 8, 8)
    maps[0, 0, 0, 0] = maps[0, 1, 0, 5] = maps[0, 2, 7, 7] = 1
    assert value({"name": "keypoints", "metric": "mae", "stride": 2}, maps, truth) == pytest.approx(0)


def test_recall_at_one():
    vectors = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.5]])
    assert value("embedding", vectors, torch.tensor([0, 0, 1, 1, 1])) == pytest.approx(80)
    task = ps.tasks.task_of("embedding")
    near, far = (task.loss(vectors, torch.tensor(classes)) for classes in ([0, 0, 1, 1, 0], [0, 1, 0, 1, 0]))
    assert near < far


def test_imitation_is_the_relative_error():
    wanted = {"a": torch.tensor([[3.0, 4.0]]), "b": torch.tensor([[1.0, 0.0]])}
    ours = {"a": torch.tensor([[3.0, 4.0]]), "b": torch.tensor([[1.0, 1.0]])}
    task = ps.tasks.task_of("imitation")
    assert task.loss(ours, wanted) == pytest.approx(0.5)
    assert value("imitation", ours, wanted) == pytest.approx(100 * (1 - math.sqrt(0.5)))
    with pytest.raises(InputError, match=r"outputs \[1, 2\].*same outputs"):
        task.loss([torch.zeros(1, 2)], [torch.zeros(1, 3)])


def test_a_metric_of_torchmetrics_and_a_function():
    metric = as_metric(MeanAbsoluteError())
    assert not metric.higher_is_better
    records = [*metric.records(torch.ones(3), torch.zeros(3)), *metric.records(torch.ones(1), -torch.ones(1))]
    assert metric.value(records) == pytest.approx(1.25)
    mean = OfBatches(lambda outputs, _: float(outputs.mean()))
    records = [*mean.records(torch.ones(3), None), *mean.records(5 * torch.ones(1), None)]
    assert mean.value(records) == pytest.approx(2)  # batches count by their images


def test_a_drop_has_a_standard_error():
    metric = ps.tasks.task_of("segmentation").judged()
    generator = torch.Generator().manual_seed(0)
    whole = list(torch.randint(0, 50, (40, 3, 3), generator=generator) + 100 * torch.eye(3).long())
    worse = [one + 20 for one in whole]
    lost, error = metric.drop(whole, worse)
    assert lost > 0
    assert 0 < error < lost
    assert metric.drop(whole, whole) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("segmentaton", "did you mean 'segmentation'"),
        ({"name": "segmentation", "ignore": 3}, "segmentation.*ignore.*no such option"),
        ({"top": 2}, "without a name"),
        ("nowhere:task", "cannot be imported"),
        ({"name": "regression", "metric": "mea"}, "metric='mea'.*mae"),
    ],
)
def test_a_task_that_is_none(given, words):
    with pytest.raises(InputError, match=words):
        ps.tasks.task_of(given)


def test_bad_losses_and_metrics():
    with pytest.raises(InputTypeError, match=r"loss of task.*tensor \[2\], not a scalar.*mean"):
        ps.Task(loss=lambda outputs, _: outputs).loss(torch.ones(2), None)
    with pytest.raises(InputTypeError, match="loss of type str"):
        ps.Task(loss="mse")
    with pytest.raises(InputTypeError, match="metric of type int"):
        ps.Task(metric=3)
    metric = as_metric(lambda *_: float("nan"))
    with pytest.raises(OperationError, match="it is nan over 2 images"):
        value_of(metric, metric.records(torch.ones(2), None))
    with pytest.raises(InputError, match="has no metric"):
        ps.Task(loss=lambda *_: None).judged()


def test_drops_are_in_the_units_of_the_metric():
    rmse = ps.tasks.task_of({"name": "regression", "metric": "rmse"}).judged()
    before, now = (rmse.records(torch.full((40, 1), error), torch.zeros(40, 1)) for error in (1.0, 3.0))
    assert rmse.drop(before, now) == pytest.approx((2.0, 0.0))
    spread = torch.arange(40.0)[:, None] / 20
    lost, error = rmse.drop(rmse.records(spread, 0 * spread), rmse.records(3 * spread, 0 * spread))
    assert lost == pytest.approx(2 * float(spread.square().mean().sqrt()), rel=1e-5)
    assert 0 < error < lost


def test_samples_without_an_image_that_counts_do_not_count():
    metric = ps.tasks.task_of("multilabel").judged()
    truth = torch.zeros(30, 2)
    truth[:2, 0] = truth[1:3, 1] = 1
    records = metric.records(truth + 0.1 * torch.rand(30, 2), truth)
    assert metric.drop(records, records) == (0.0, 0.0)
    assert math.isfinite(metric.standard_error(records))


def test_points_that_are_hidden_do_not_count():
    places = torch.rand(4, 5, 2) * 20
    truth = torch.cat([places, torch.ones(4, 5, 1)], dim=2)
    truth[2:, :, 2] = 0  # two images without any point
    assert value("keypoints", places, truth) == pytest.approx(100)
    distance = {"name": "keypoints", "metric": "mae"}
    assert value(distance, places + torch.tensor([3.0, 4.0]), truth) == pytest.approx(5)
    truth[0, 1:, 2] = 0  # one point has no extent to measure by
    assert value("keypoints", places, truth) == pytest.approx(100)
    metric = ps.tasks.task_of("keypoints").judged()
    assert metric.drop(*[metric.records(places, truth)] * 2) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "segmentation", "ignore": 3}, "no such option; choose from ignore_index, label_smoothing"),
        ({"name": "segmentation", "ignore_index": "abc"}, "whole number"),
        ({"name": "keypoints", "within": -1}, "above 0"),
        ({"name": "multilabel", "top": 2}, "no such option; leave it out"),
    ],
)
def test_options_that_are_none(given, words):
    with pytest.raises((InputError, InputTypeError), match=words):
        ps.tasks.task_of(given)


def test_a_class_of_metrics_is_no_metric():
    with pytest.raises(InputTypeError, match=r"MeanAbsoluteError.*it is a class; pass one of it"):
        ps.Task(metric=MeanAbsoluteError)


def test_what_is_learned_from_a_teacher_is_what_the_loss_judges():
    ours, theirs = torch.rand(4, 5, 2) * 48, torch.rand(4, 5, 2) * 48
    for name, rest in (("keypoints", torch.rand(4)), ("regression", None), ("restoration", None)):
        task = ps.tasks.task_of(name)
        pair = [each[:, None] if name == "restoration" else each for each in (ours, theirs)]
        given = [each if rest is None else {"keypoints": each, "sure": rest} for each in pair]
        assert task.distill(*given, 4.0) == pytest.approx(float(task.loss(given[0], pair[1])))


def test_masks_between_classes_and_images_below_the_window_of_ssim_are_refused():
    logits = torch.zeros(1, 3, 2, 2)
    task = ps.tasks.task_of("segmentation")
    whole = torch.tensor([[[0.0, 1], [2, 255]]])
    assert torch.isfinite(task.loss(logits, whole))
    with pytest.raises(InputError, match="values between whole numbers"):
        task.loss(logits, whole + 0.5)
    small, large = torch.rand(1, 1, 5, 8), torch.rand(1, 1, 6, 6)
    assert value({"name": "restoration", "metric": "ssim"}, large, large) == pytest.approx(1)
    with pytest.raises(InputError, match=r"5×8 pixels: its window needs 6 .* metric='psnr'"):
        value({"name": "restoration", "metric": "ssim"}, small, small)
