"""torchvision's networks that are not image → logits: from the pruned core to a verified file and back from disk."""

import pytest
import torch
from torch import nn

import pintsize as ps
from torchvision_here import imported

pytestmark = pytest.mark.filterwarnings("ignore:.*requires_grad=True to a scalar.*")
QUIET = {"progress": False}
CLASSES = 4
DETECTION = {"name": "detection", "first_class": 1, "num_classes": CLASSES}
SIZE = (96, 128)


def torchvision_models(part):
    """Its `models.detection` or `models.segmentation`; skips the test where there is no torchvision."""
    try:
        return imported(f"torchvision.models.{part}")
    except ImportError:
        pytest.skip("torchvision is not installed")


def lively(model, *inputs):
    """Norms with the statistics of these inputs, so that random weights neither vanish nor explode."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    with torch.no_grad():
        model.train()(*inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


class Core(nn.Module):
    """Backbone and head: what is dense."""

    def __init__(self, backbone, head):
        super().__init__()
        self.backbone, self.head, self.shapes = backbone, head, []

    def forward(self, images):
        maps = list(self.backbone(images).values())
        self.shapes = [tuple(each.shape[-2:]) for each in maps]
        return self.head(maps)


class Detector(nn.Module):
    """torchvision's SSDlite, whose backbone and head are one part: it resizes, runs the core, and decodes.

    Of the feature maps the anchors need nothing but their sizes.
    """

    def __init__(self):
        super().__init__()
        ssd = torchvision_models("detection").ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=CLASSES + 1
        )
        ssd.transform.fixed_size = SIZE[::-1]  # width, height
        self.core, self._found = Core(ssd.backbone, ssd.head), {}
        del ssd.backbone, ssd.head
        ssd.backbone, ssd.head = self._maps, lambda _maps: self._found
        self.ssd = ssd

    def _maps(self, images):
        self._found = self.core(images)
        return {str(k): images.new_empty(len(images), 1, *size) for k, size in enumerate(self.core.shapes)}

    def forward(self, images, targets=None):
        return self.ssd(images, targets)


def boxes(*rows):
    return {
        "boxes": torch.tensor([row[:4] for row in rows]).float(),
        "labels": torch.tensor([row[4] for row in rows]),
    }


IMAGES = [
    torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    for size in ((90, 120), (70, 110), (96, 80))
]
TARGETS = [
    boxes((5, 5, 60, 60, 0), (70, 20, 110, 80, 3)),
    boxes((20, 10, 90, 60, 1)),
    boxes((5, 30, 70, 90, 2)),
]


@pytest.fixture(scope="module")
def detector():
    """Pruned at its core, and lively."""
    torch.manual_seed(0)
    model = Detector()
    model.eval()
    batch = torch.rand(2, 3, *SIZE)
    lively(model.core, batch)
    plan = ps.prune(model.core, batch[:1], macs=0.5)
    assert plan.after["macs"] <= 0.5 * plan.before["macs"]
    return model


def test_detector_whose_core_is_half(detector, tmp_path):
    model, task = detector, ps.tasks.task_of(DETECTION)
    loss = task.step(model.train(), IMAGES, TARGETS)
    loss.backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert loss.isfinite()
    assert not missing
    model.zero_grad()
    model.eval()

    example = torch.rand(4, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    ps.quantize(model.core, calibration=example, method="lsq", **QUIET)
    data = ps.data.from_loaders([(IMAGES, TARGETS)] * 2, [(IMAGES, TARGETS)], task=DETECTION)
    before = model.core.head.classification_head.module_list[0][0][0].weight.clone()
    history = ps.train(model, data, epochs=1, lr=1e-3, precision="fp32", **QUIET)
    assert history[0]["train_loss"] < 2 * float(loss)
    assert not torch.equal(before, model.core.head.classification_head.module_list[0][0][0].weight)
    assert 0 <= ps.evaluate(model, data.val) <= 100

    ps.fold_batchnorm(model.core, example[:1])
    path = tmp_path / "core.onnx"
    ps.export(model.core, path, example=example[:1], dynamic_batch=False)
    report = ps.verify(path, model.core, [example[k : k + 1] for k in range(4)], task="imitation")
    assert report.ok
    with torch.no_grad():
        spread = {name: float(each.std(0).max()) for name, each in model.core(example).items()}
    assert min(spread.values()) > 1e-4  # the file was compared on outputs that differ

    ps.save(model, tmp_path / "detector.safetensors")
    again = ps.load(tmp_path / "detector.safetensors", model=Detector())
    with torch.no_grad():
        for one, other in zip(model(IMAGES), again(IMAGES), strict=True):
            assert one["boxes"].shape[0] > 0
            assert all(torch.equal(one[key], other[key]) for key in one)


def test_segmenter_that_is_half(tmp_path):
    make = torchvision_models("segmentation").deeplabv3_mobilenet_v3_large
    options = {"weights": None, "weights_backbone": None, "num_classes": CLASSES, "aux_loss": True}
    torch.manual_seed(0)
    images, masks = torch.rand(2, 3, 64, 96), torch.randint(0, CLASSES, (2, 64, 96))
    model, task = lively(make(**options), images), ps.tasks.task_of("segmentation")
    plan = ps.prune(model, images[:1], macs=0.5)
    assert plan.after["macs"] <= 0.5 * plan.before["macs"]
    loss = task.step(model.train(), images, masks)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.zero_grad()
    model.eval()

    ps.quantize(model, calibration=images, method="lsq", **QUIET)
    data = ps.data.from_loaders([(images, masks)], [(images, masks)], task="segmentation", classes=CLASSES)
    history = ps.train(
        model, data, epochs=1, lr=1e-3, precision="fp32", callbacks=[ps.QuantizationAware()], **QUIET
    )
    assert history[0]["train_loss"] < 2 * float(loss)
    ps.fold_batchnorm(model, images[:1])
    ps.export(model, tmp_path / "net.onnx", example=images[:1], dynamic_batch=False)
    single = [(images[k : k + 1], masks[k : k + 1]) for k in range(2)]
    report = ps.verify(tmp_path / "net.onnx", model, single, task="segmentation")
    assert report.ok
    ps.save(model, tmp_path / "net.safetensors")
    again = ps.load(tmp_path / "net.safetensors", model=make(**options))
    with torch.no_grad():
        ours, theirs = model(images), again(images)
    assert list(ours) == list(theirs) == ["out", "aux"]
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert float(ours["out"].std((0, 2, 3)).max()) > 1e-4
