import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pintsize as ps
from pintsize.data import images
from pintsize.errors import InputError, InputTypeError
from pintsize.tasks import teaching
from pintsize.tasks.imitation import Imitation, distribution, imitate


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PINTSIZE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path):
    chance = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(40):
        values = chance.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(values).resize((12, 12)).save(tmp_path / "photos" / f"{number}.png")
    return images(tmp_path / "photos", mean=(0.5,) * 3, std=(0.25,) * 3, frames=False)


class Net(nn.Module):
    def __init__(self, softmax=False):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.neck = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        self.last = nn.Softmax(1) if softmax else nn.Identity()

    def forward(self, x):
        return self.last(self.head(self.neck(self.body(x))))


class Counted(Net):
    """Counts the images that it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x)


def seen(data):
    """Images that the teacher of a taught split has looked at."""
    return sum(data._lesson.teacher.seen)


def test_what_a_distribution_is():
    logits = torch.randn(3, 4, 5)
    assert distribution(logits.softmax(1)) == 1
    assert distribution(logits.softmax(2)) == 2
    assert distribution(logits[..., 0].softmax(1)) == 1
    assert distribution(logits) is None
    assert distribution(logits.sigmoid()) is None
    assert distribution(torch.ones(3, 1)) is None
    assert distribution(torch.ones(3)) is None


def test_the_loss_of_distributions_is_the_divergence():
    theirs, ours = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    wanted = 0.5 * (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75))
    assert float(Imitation().loss(ours, theirs)) == pytest.approx(wanted)
    both = Imitation().loss((ours, torch.tensor([[2.0], [2.0]])), (theirs, torch.tensor([[1.0], [4.0]])))
    relative = (((ours - theirs).square().sum(1) / theirs.square().sum(1)).mean() + (1 + 0.25) / 2) / 2
    assert float(both) == pytest.approx(float(relative) + wanted / 2)


def test_decisions_are_judged_by_agreement():
    task = Imitation(decisions=True)
    theirs, ours = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    metric = task.judged()
    assert metric.name == "agreement"
    assert metric.value(list(metric.records(ours, theirs))) == 50
    assert task.agreement(ours, theirs).tolist() == [False, True]
    divergence = torch.nn.functional.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction="batchmean")
    assert float(task.loss(ours, theirs)) == pytest.approx(float(Imitation().loss(ours, theirs) + divergence))
    with pytest.raises(InputError, match="no scores of classes"):
        metric.records(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))


def test_whether_there_are_decisions_the_teacher_tells(photos):
    assert imitate(photos, Counted()).task.judged().name == "fidelity"
    assert imitate(photos, Net(softmax=True)).task.judged().name == "agreement"
    named = imitate(photos, ps.models.create("resnet-demo", num_classes=5))
    assert named.task.judged().name == "agreement"
    assert imitate(photos, Counted(), Imitation(decisions=True)).val.task.judged().name == "agreement"


def test_a_network_learns_what_its_teacher_says_without_labels(photos):
    teacher = Counted().eval()
    student = copy.deepcopy(teacher)
    for parameter in student.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    taught = imitate(photos, teacher)
    before = ps.evaluate(student, taught.val)
    ps.train(student, photos, teacher=teacher, epochs=8, lr=0.02, batch_size=8, progress=False)
    assert ps.evaluate(student, taught.val) > before
    with pytest.raises(InputTypeError, match=r"nothing to learn from.*teacher="):
        ps.train(student, photos, epochs=1, progress=False)
    with pytest.raises(InputTypeError, match=r"nothing to judge by.*imitate"):
        ps.evaluate(student, photos.val)


def test_every_verb_takes_images_without_labels(photos, tmp_path):
    net = Net().eval()
    example = next(iter(photos.val.batches(2)))
    curves = ps.sensitivity(net, photos, level="group", ratios=(0.5,), progress=False)
    assert curves.accuracy == pytest.approx(100)
    ps.prune(net, example, macs=0.6, data=photos.train, importance="taylor")
    ps.quantize(net, calibration=photos.train, progress=False)
    ps.export(net, tmp_path / "net.onnx", example=example)
    report = ps.verify(tmp_path / "net.onnx", net, photos.test)
    assert report.ok
    assert report.images == len(photos.test)


def test_gradients_ask_about_a_step_aside_for_there_is_none_at_the_outputs_themselves(photos):
    from pintsize.pruning.channels.statistics import Statistics

    net = Counted().eval()
    for data in (photos.train, imitate(photos, net).train):
        squares = Statistics(net, data.batches(16), 0, task="imitation").squared_gradient("neck.0.weight")
        assert float(squares.sum()) > 1e-8
    dead = Counted().eval()
    with torch.no_grad():
        dead.head[2].weight[:, 3] = 0  # what channel 3 says, nobody hears
    squares = Statistics(dead, photos.train.batches(16), 0, task="imitation").squared_gradient(
        "neck.0.weight"
    )
    assert float(squares[3].abs().max()) == 0
    assert float(squares[2].abs().max()) > 0


def test_outputs_on_images_that_do_not_change_are_computed_once(photos):
    taught = imitate(photos, Counted()).train
    first = seen(taught)
    plain = [targets for _, targets in taught.batches(8)]
    assert seen(taught) == first + len(taught)
    again = {}
    for epoch in range(2):
        order = photos.train.order(8, shuffle=True, seed=1, epoch=epoch)
        for chosen, (inputs, targets) in zip(
            order, taught.batches(8, shuffle=True, seed=1, epoch=epoch), strict=True
        ):
            again.update(zip(chosen.tolist(), targets, strict=True))
            assert torch.allclose(
                targets, taught._lesson.teacher.last(taught._lesson.teacher(inputs)), atol=1e-6
            )
            taught._lesson.teacher.seen.pop()
    assert seen(taught) == first + len(taught)
    assert torch.equal(torch.cat(plain), torch.stack([again[k] for k in range(len(taught))]))
    list(taught.batches(8, augment=True))
    assert seen(taught) == first + 2 * len(taught)


def test_outputs_are_kept_for_the_next_start(photos, cache, monkeypatch):
    monkeypatch.setattr(teaching, "WORTH_KEEPING", 0.0)
    one = imitate(photos, Counted()).train
    wanted = torch.cat([targets for _, targets in one.batches(8)])
    (file,) = cache.glob("taught-*")
    other = imitate(photos, Counted()).train
    before = seen(other)
    assert torch.equal(torch.cat([targets for _, targets in other.batches(8)]), wanted)
    assert seen(other) == before + 8  # one batch tells what outputs look like
    changed = Counted()
    changed.head[2].bias.data += 1
    third = imitate(photos, changed).train
    assert not torch.equal(torch.cat([targets for _, targets in third.batches(8)]), wanted)
    file.write_bytes(b"damaged")
    fourth = imitate(photos, Counted()).train
    assert torch.equal(torch.cat([targets for _, targets in fourth.batches(8)]), wanted)


def test_the_cache_has_its_limits(photos, cache, monkeypatch):
    monkeypatch.setattr(teaching, "WORTH_KEEPING", 0.0)
    monkeypatch.setattr(teaching, "DISK_LIMIT", 1500)
    for shift in range(3):
        net = Counted()
        net.head[2].bias.data += shift
        list(imitate(photos, net).train.batches(8))
    assert sum(file.stat().st_size for file in cache.glob("taught-*")) <= 1500
    monkeypatch.setattr(teaching, "MEMORY_LIMIT", 10)
    taught = imitate(photos, Counted()).val
    list(taught.batches(8))
    list(taught.batches(8))
    assert seen(taught) == 2 + 2 * len(taught)


def test_an_epoch_costs_the_student_alone(photos):
    teacher, student = Counted().eval(), Counted()
    data = imitate(photos, teacher)
    ps.train(student, data, epochs=5, lr=0.01, augment=False, progress=False)
    assert seen(data.train) <= 2 + 4 + len(data.train) + len(data.val)


def test_feature_maps_of_equal_shape_count_too(photos):
    teacher, student = Net().eval(), Net()
    student.neck[0].weight.data *= 1.5
    student.neck[0].bias.data += 0.1
    task = Imitation(features=1.0)
    data = imitate(photos, teacher, task)
    inputs, targets = next(iter(data.train.batches(4)))
    student.eval().requires_grad_(False)
    both, outputs = task.outputs(student, inputs), student(inputs)
    assert set(both["features"]) == {"body", "neck"}
    inside = (both["features"]["neck"] - targets["features"]["neck"]).square().sum()
    relative = inside / targets["features"]["neck"].square().sum() / 2  # the body is the same
    plain = Imitation().loss(outputs, teaching.plain(targets))
    assert float(task.loss(both, targets)) == pytest.approx(float(plain + relative), rel=1e-5)
    student.requires_grad_(True)
    ps.train(student, data, epochs=1, lr=0.01, progress=False)
    assert ps.evaluate(student, data.val) <= 100
    ps.prune(student, inputs, ratio=0.5)
    smaller = task.outputs(student, inputs)
    with pytest.raises(InputError, match="no map inside the network has the dense network's shape"):
        task.loss(smaller, targets)


def test_batches_are_mixed_where_they_are_augmented(photos):
    mixing = imitate(photos, Counted(), Imitation(mix=1.0)).train
    plain = imitate(photos, Counted()).train
    options = {"augment": True, "seed": 3, "epoch": 1}
    mixed, again, unmixed = (
        [inputs for inputs, _ in split.batches(8, **options)] for split in (mixing, mixing, plain)
    )
    assert all(torch.equal(one, other) for one, other in zip(mixed, again, strict=True))
    assert not torch.equal(mixed[0], unmixed[0])
    assert torch.equal(next(iter(mixing.batches(8)))[0], next(iter(plain.batches(8)))[0])
    for inputs, targets in mixing.batches(8, **options):
        assert torch.allclose(mixing._lesson.teacher(inputs), targets, atol=1e-6)


@pytest.mark.parametrize("options", [{"features": -1}, {"features": True}, {"mix": 2}, {"mix": "some"}])
def test_options_that_make_no_sense(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Imitation(**options)


def test_training_ends_when_nothing_gets_better(photos):
    teacher = Counted().eval()
    history = ps.train(
        copy.deepcopy(teacher), photos, teacher=teacher, epochs=9, lr=1e-9, patience=2, progress=False
    )
    assert len(history) == 3
    with pytest.raises(InputError, match="patience=0"):
        ps.train(Counted(), photos, teacher=teacher, patience=0, progress=False)
    with pytest.raises(InputTypeError, match="patience"):
        ps.train(Counted(), photos, teacher=teacher, patience=1.5, progress=False)


def test_a_run_without_labels_shows_what_the_network_sees(photos, tmp_path):
    result = ps.compress(
        Net().eval(), photos, epochs=0, ratio=0.5, recover_epochs=1, recover_lr=0.01, weights=8,
        out=tmp_path / "run", progress=False,
    )  # fmt: skip
    assert result.metrics["task"]["metric"] == "fidelity"
    assert (tmp_path / "run" / "figures" / "what-the-network-sees.png").is_file()
    assert "what the network sees" in result.report.read_text()
