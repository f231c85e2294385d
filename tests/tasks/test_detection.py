import sys

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError, InputTypeError, MissingExtra
from pintsize.tasks import task_of
from pintsize.tasks.detection import Detection, overlap
from pintsize.tasks.metric import value_of

ONE = {"boxes": torch.tensor([[10.0, 10, 30, 30]]), "labels": torch.tensor([0])}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def seen(*boxes, labels, scores):
    return {
        "boxes": torch.tensor(boxes).float().reshape(-1, 4),
        "labels": torch.tensor(labels).long(),
        "scores": torch.tensor(scores).float(),
    }


def value(found, truth, **options):
    pytest.importorskip("faster_coco_eval")
    metric = Detection(**options).metric
    return value_of(metric, metric.records(found, truth))


def test_what_is_found_exactly_is_100_percent():
    assert value([seen([10, 10, 30, 30], labels=[0], scores=[0.9])], [ONE]) == pytest.approx(100)
    assert value([seen([10, 10, 30, 30], labels=[1], scores=[0.9])], [ONE]) == 0
    assert value([seen(labels=[], scores=[])], [ONE]) == 0


def test_a_box_of_three_quarters_counts_at_six_of_ten_overlaps():
    # 20 × 15 of 20 × 20: found at .5, .55, .6, .65, .7 and .75
    found = [seen([10, 10, 30, 25], labels=[0], scores=[0.9])]
    assert value(found, [ONE]) == pytest.approx(60)
    assert value(found, [ONE], metric="mAP@.5") == pytest.approx(100)


def test_a_false_box_counts_by_its_score():
    false, right = [50, 50, 60, 60], [10, 10, 30, 30]
    assert value([seen(right, false, labels=[0, 0], scores=[0.9, 0.1])], [ONE]) == pytest.approx(100)
    assert value([seen(right, false, labels=[0, 0], scores=[0.1, 0.9])], [ONE]) == pytest.approx(50)


def test_classes_count_alike():
    truth = [
        ONE,
        {
            "boxes": ONE["boxes"].repeat(3, 1) + torch.arange(3.0)[:, None] * 30,
            "labels": torch.ones(3).long(),
        },
    ]
    found = [seen([10, 10, 30, 30], labels=[0], scores=[0.9]), seen(labels=[], scores=[])]
    assert value(found, truth) == pytest.approx(50)


def test_images_without_boxes_are_read():
    found = [seen([10, 10, 30, 30], labels=[0], scores=[0.9]), seen(labels=[], scores=[])]
    assert value(found, [ONE, NONE]) == pytest.approx(100)


def test_no_box_at_all_is_said():
    pytest.importorskip("faster_coco_eval")
    with pytest.raises(Exception, match="mAP.*it is nan over 1 images"):
        value([seen([10, 10, 30, 30], labels=[0], scores=[0.9])], [NONE])


def test_the_standard_error_is_that_of_drawing_images():
    pytest.importorskip("faster_coco_eval")
    metric = Detection().metric
    chance = torch.Generator().manual_seed(0)
    truth, found = [], []
    for _ in range(60):
        corner = torch.rand(3, 2, generator=chance) * 50
        boxes = torch.cat([corner, corner + 20], 1)
        truth.append({"boxes": boxes, "labels": torch.randint(3, (3,), generator=chance)})
        moved, scores = boxes + 6 * torch.rand(3, 4, generator=chance), torch.rand(3, generator=chance)
        found.append({**truth[-1], "boxes": moved, "scores": scores})
    records = metric.records(found, truth)
    plain = super(type(metric), metric).standard_error(records)  # by evaluating each draw anew
    assert metric.standard_error(records) == pytest.approx(plain)
    assert 0 < plain < 10


def test_overlap_by_hand():
    ours = torch.tensor([[0.0, 0, 2, 2], [5, 5, 6, 6]])
    theirs = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2]])
    assert overlap(ours, theirs).tolist() == [[pytest.approx(1 / 7), 1.0], [0.0, 0.0]]


def test_agreement_is_the_share_of_boxes_that_both_have():
    task = Detection()
    one = seen([0, 0, 10, 10], [20, 20, 40, 40], labels=[0, 1], scores=[0.9, 0.9])
    other = seen([1, 0, 10, 10], [20, 20, 40, 40], [60, 60, 70, 70], labels=[0, 2, 0], scores=[0.9, 0.9, 0.1])
    nothing = seen(labels=[], scores=[])
    assert task.agreement([one, one, nothing], [one, other, nothing]).tolist() == [1.0, 0.5, 1.0]
    assert task.agreement([one], [nothing]).tolist() == [0.0]


class Losses(nn.Module):
    """Like torchvision's: a dict of losses in training mode, boxes in eval mode; class 0 is the background."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.labels = []

    def forward(self, images, targets=None):
        if self.training:
            self.labels.append([one["labels"].tolist() for one in targets])
            return {"boxes": self.weight * 2, "classes": self.weight * len(images)}
        return [seen([10, 10, 30, 30], labels=[1], scores=[0.9]) for _ in images]


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 64, 64), (torch.zeros(3, 64, 64), torch.zeros(3, 64, 80))]
)
def test_networks_that_make_their_own_losses(images):
    task, model = task_of({"name": "detection", "first_class": 1}), Losses()
    assert task.own_step
    loss = task.step(model, images, [ONE, ONE])
    assert loss.item() == 4
    loss.backward()
    assert model.labels == [[[1], [1]]]
    assert ONE["labels"].tolist() == [0]
    model.eval()
    outputs = task.outputs(model, images)
    assert [one["labels"].tolist() for one in task.found(outputs)] == [[0], [0]]


def test_a_loss_and_decode_of_ones_own():
    task = Detection(
        loss=lambda outputs, targets: outputs.mean() * len(targets),
        decode=lambda outputs: [seen([10, 10, 30, 30], labels=[0], scores=[float(one)]) for one in outputs],
    )
    assert not task.own_step
    assert float(task.loss(torch.ones(2), [ONE, ONE])) == 2
    found = task.found(torch.tensor([0.5, 0.1]).numpy())  # as a runtime gives it
    assert [float(one["scores"]) for one in found] == [0.5, pytest.approx(0.1)]
    assert len(task.sure(torch.tensor([0.5, 0.1]))[1]["boxes"]) == 0


IMAGES = torch.zeros(1, 1, 48, 64)


@pytest.mark.parametrize(
    ("target", "error", "told"),
    [
        (torch.zeros(1), InputTypeError, "not one dict for each of 1 images"),
        ([ONE, ONE], InputTypeError, "2 list"),
        ([torch.zeros(3, 4)], InputTypeError, "it is a Tensor; give out"),
        ([{"boxes": torch.zeros(2, 5), "labels": torch.zeros(2).long()}], InputTypeError, r"boxes \[2, 5\] float32"),
        ([{"boxes": torch.zeros(2, 4).long(), "labels": torch.zeros(2).long()}], InputTypeError, "int64"),
        ([{"boxes": torch.zeros(2, 4)}], InputTypeError, "dict of boxes"),
        ([{**ONE, "boxes": torch.tensor([[30.0, 10, 10, 30]])}], InputError, r"\[30.0, 10.0, 10.0, 30.0\] has no extent"),
        ([{**ONE, "boxes": torch.tensor([[10.0, 10, 30, 60]])}], InputError, r"outside the image of 48×64 pixels"),
        ([{**ONE, "boxes": torch.tensor([[-5.0, 10, 30, 40]])}], InputError, r"outside the image"),
        ([{**ONE, "boxes": torch.tensor([[float("nan"), 10, 30, 40]])}], InputError, r"has no extent"),
        ([{**ONE, "labels": torch.tensor([3])}], InputError, "label 3: there are classes 0 to 2"),
        ([{**ONE, "labels": torch.tensor([-1])}], InputError, "label -1: "),
    ],
)  # fmt: skip
def test_targets_that_do_not_fit_are_refused(target, error, told):
    with pytest.raises(error, match=told):
        Detection(num_classes=3).check(IMAGES, target)


def test_targets_that_fit_pass():
    edge = {"boxes": torch.tensor([[-0.5, 0, 64.5, 48]]), "labels": torch.tensor([2], dtype=torch.int32)}
    for target in (ONE, NONE, edge):
        Detection(num_classes=3).check(IMAGES, [target])
        Detection().check(IMAGES, [target], 3)
    with pytest.raises(InputError, match="label 2: there are classes 0 to 1"):
        Detection().check(IMAGES, [edge], 2)


def test_outputs_that_are_no_boxes_ask_for_decode():
    with pytest.raises(InputTypeError, match=r"pass decode=fn\(outputs\)"):
        Detection().metric.records(torch.zeros(1, 84, 20), [ONE])
    with pytest.raises(InputTypeError, match="what decode returns: Tensor"):
        Detection(decode=lambda outputs: outputs).metric.records(torch.zeros(1, 84, 20), [ONE])
    with pytest.raises(InputTypeError, match="there are detections of 1 images"):
        Detection().metric.records([seen(labels=[], scores=[])], [ONE, ONE])


def test_options_are_checked():
    with pytest.raises(InputError, match="choose mAP or mAP@.5"):
        task_of({"name": "detection", "metric": "map50"})
    with pytest.raises(InputTypeError, match=r"pass decode=fn\(outputs\)"):
        Detection(decode="nms")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    metric = Detection().metric
    records = metric.records([seen([10, 10, 30, 30], labels=[0], scores=[0.9])], [ONE])
    with pytest.raises(MissingExtra, match=r"pip install 'pintsize\[detection\]'"):
        metric.value(records)


class Counting(nn.Module):
    """A detector of one weight, which takes a list of images of any size."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(())), []

    def forward(self, images, targets=None):
        assert isinstance(images, list)
        assert all(image.dim() == 3 for image in images)
        self.seen.append(len(images))
        if self.training:
            return {"boxes": self.weight**2 * len(targets) / len(images)}
        return [seen([10, 10, 30, 30], labels=[0], scores=[0.9]) for _ in images]


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_of_images_are_trained_on_and_judged(kind):
    pytest.importorskip("faster_coco_eval")
    images = [torch.rand(3, 48, 64), torch.rand(3, 40, 60), torch.rand(3, 64, 64)]
    batches = [(kind(images), kind([ONE] * 3)), (kind(images[:1]), kind([ONE]))]
    data = ps.data.from_loaders(batches, batches, task="detection")
    model = Counting()
    history = ps.train(model, data, epochs=1, lr=0.1, weight_decay=0, momentum=0, schedule="constant",
                       precision="fp32", progress=False)  # fmt: skip
    assert history[0]["train_loss"] == pytest.approx((3 * 1 + 0.8**2) / 4)  # weighed by images, by hand
    assert history[0]["val_metric"] == ps.evaluate(model, data.val) == pytest.approx(100)
    assert set(model.seen) <= {1, 2, 3}
