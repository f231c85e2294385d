"""Masks hold: in training of any kind, in copies, averages, checkpoints, files, cuts and quantization."""

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import IllegalOrder, InputError
from pintsize.pruning import Sparsify, masks_of, one_shot, prune, remove_masks, set_masks, sparsify
from pintsize.storage import record
from pintsize.training import Callback


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return ps.data.load("digits", limit=200)


def zeros_hold(model: nn.Module, masks: dict[str, torch.Tensor]) -> None:
    tensors = dict(model.named_parameters())
    assert masks.keys() == masks_of(model).keys()
    for name, mask in masks.items():
        assert torch.equal(masks_of(model)[name], mask)
        assert not tensors[name][~mask].any()
        assert not model.state_dict()[name][~mask].any()
    assert sum(int((~m).sum()) for m in masks.values()) > 0


def test_a_plain_loop_with_stale_momentum_does_not_regrow():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    images, labels = torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    for _ in range(3):
        step()  # momentum of weights that go
    masks = sparsify(model, density=0.2).masks
    for _ in range(100):
        step()
    # before anything reads the state: the forward alone must be right
    with torch.no_grad():
        masked_forward = model(images)
    zeros_hold(model, masks)
    with torch.no_grad():
        assert torch.equal(masked_forward, model(images))


@pytest.mark.parametrize("fused", [False, True])
def test_masks_that_come_in_the_middle_hold_at_every_step_and_in_evaluation(fused):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, fused=fused)
    images, labels = torch.randn(16, 8), torch.arange(16) % 3
    for step in range(6):
        if step == 3:  # the optimizer has momentum for what is removed
            masks = sparsify(model, density=0.3).masks
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        if step < 3:
            continue
        with torch.no_grad():
            found = model(images)
            layers = [nn.functional.linear(images, model[0].weight * masks["0.weight"], model[0].bias)]
            layers.append(
                nn.functional.linear(layers[0].relu(), model[2].weight * masks["2.weight"], model[2].bias)
            )
        assert torch.allclose(found, layers[1], atol=1e-6)
        zeros_hold(model, masks)


def test_validation_in_training_sees_the_zeros(digits):
    seen = []

    class Look(Callback):
        def on_epoch_end(self, state):
            masks = masks_of(state.model)
            seen.append(all(not p[~masks[n]].any() for n, p in state.model.named_parameters() if n in masks))

    model = network()
    history = ps.train(
        model, digits, epochs=3, lr=0.05, batch_size=20, progress=False,
        callbacks=[Sparsify(one_shot(0.1, epoch=1), scope="local"), Look()],
    )  # fmt: skip
    assert seen == [True] * 3
    assert history[-1]["val_accuracy"] == ps.evaluate(model, digits.val)


def test_gradients_of_removed_weights_are_zero():
    model = network()
    masks = sparsify(model, density=0.3).masks
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    for name, mask in masks.items():
        grad = dict(model.named_parameters())[name].grad
        assert not grad[~mask].any()
        assert grad[mask].any()


def test_two_forwards_before_one_backward():
    model = network()
    sparsify(model, density=0.3)
    images = torch.randn(2, 1, 8, 8)
    (model(images) + model(images)).sum().backward()


class Killed(Callback):
    """Stops the training at the start of the second epoch, once."""

    def __init__(self, armed: bool) -> None:
        self.armed = armed

    def on_epoch_start(self, state):
        if self.armed and state.epoch == 1:
            raise KeyboardInterrupt


def test_masks_hold_through_training_with_average_checkpoint_and_resume(tmp_path, digits):
    straight, killed, resumed = network(), network(), network()
    masks = sparsify(straight, density=0.1, scope="local").masks
    sparsify(killed, density=0.1, scope="local")
    sparsify(resumed, density=0.5)  # other masks: the checkpoint's must win
    options = {"epochs": 3, "lr": 0.05, "ema": 0.9, "batch_size": 4, "progress": False}
    ps.train(straight, digits, callbacks=[Killed(False)], **options)
    assert 3 * len(digits.train) / 4 >= 100  # steps
    zeros_hold(straight, masks)
    with pytest.raises(KeyboardInterrupt):
        ps.train(killed, digits, callbacks=[Killed(True)], checkpoint=tmp_path / "c", **options)
    ps.train(resumed, digits, callbacks=[Killed(False)], checkpoint=tmp_path / "c", **options)
    zeros_hold(resumed, masks)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_copies_and_pickles_keep_the_mask():
    model = network()
    masks = sparsify(model, density=0.2).masks
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for copied in (
        copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)
    ):  # fmt: skip
        zeros_hold(copied, masks)
        with torch.no_grad():
            copied[3].weight.add_(1.0)
            copied(torch.zeros(1, 1, 8, 8))
        zeros_hold(copied, masks)


def test_channels_last_weights_are_held_too():
    model = network()
    masks = sparsify(model, density=0.2).masks
    model.to(memory_format=torch.channels_last)
    with torch.no_grad():
        model[3].weight.add_(1.0)
    zeros_hold(model, masks)


def test_state_dict_holds_one_bit_a_weight_and_checks_it():
    model = network()
    masks = sparsify(model, density=0.2).masks
    state = model.state_dict()
    assert state["3.weight_mask"].dtype == torch.uint8
    assert state["3.weight_mask"].numel() == 8 * 8 * 9 // 8
    fresh = network()
    set_masks(fresh, {name: torch.ones_like(mask) for name, mask in masks.items()})
    fresh.load_state_dict(state)
    zeros_hold(fresh, masks)
    del state["3.weight_mask"]
    with pytest.raises(RuntimeError, match="3.weight_mask"):
        fresh.load_state_dict(state)
    with pytest.raises(RuntimeError, match="holds no mask"):
        fresh.load_state_dict({**state, "3.weight_mask": torch.zeros(3, dtype=torch.uint8)})


def test_save_and_load_give_back_masks_and_record(tmp_path):
    model = network()
    masks = sparsify(model, density=0.2).masks
    ps.save(model, tmp_path / "net.safetensors")
    loaded = ps.load(tmp_path / "net.safetensors", model=network())
    zeros_hold(loaded, masks)
    assert [step.kind for step in record.record(loaded)] == ["mask"]
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(model.eval()(images), loaded(images))


def test_pruning_channels_cuts_masks_with_the_weights(tmp_path):
    model = network()
    masks = sparsify(model, density=0.5).masks
    example = torch.randn(2, 1, 8, 8)
    plan = prune(model, example, macs=0.5)
    assert plan.after["macs"] <= 0.5 * plan.before["macs"]
    for name in masks:
        for dim, gone in plan.removed.get(name, {}).items():
            keep = [i for i in range(masks[name].shape[dim]) if i not in gone]
            masks[name] = masks[name].index_select(dim, torch.tensor(keep))
        assert torch.equal(masks_of(model)[name], masks[name])
    assert model[0].weight.shape[0] < 8
    zeros_hold(model, masks_of(model))
    ps.save(model, tmp_path / "net.safetensors")
    loaded = ps.load(tmp_path / "net.safetensors", model=network())
    assert torch.allclose(model.eval()(example), loaded(example))
    zeros_hold(loaded, masks_of(model))
    sparsify(model, density=0.3, scope="local")  # and on


def test_zeros_survive_quantization_and_export(tmp_path, digits):
    model = network()
    ps.train(model, digits, epochs=1, progress=False)
    masks = sparsify(model, density=0.3).masks
    ps.quantize(model, calibration=digits.train)
    weight = dict(model.named_parameters())["3.weight"]
    quantized = model[3].weight_quantizer(weight)
    assert not quantized[~masks["3.weight"]].any()
    assert quantized[masks["3.weight"]].any()
    zeros_hold(model, masks)
    ps.export(model, tmp_path / "net.onnx", example=torch.zeros(2, 1, 8, 8))
    ps.verify(tmp_path / "net.onnx", model, digits.val)
    import onnx
    from onnx import numpy_helper

    stored = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "net.onnx").graph.initializer]
    ours = [t for t in stored if t.shape == (8, 8, 3, 3)]
    assert len(ours) == 1
    assert ours[0].dtype == "int8"
    assert (ours[0] == 0)[~masks["3.weight"].numpy()].all()
    with pytest.raises(IllegalOrder):
        sparsify(model, density=0.1)


def test_remove_masks_leaves_a_plain_network_of_zeros(tmp_path):
    model = network()
    masks = sparsify(model, density=0.2).masks
    assert remove_masks(model) == ["0", "3", "7"]
    assert type(model[3]) is nn.Conv2d
    assert not record.record(model)
    assert model.state_dict().keys() == network().state_dict().keys()
    assert not model[3].weight[~masks["3.weight"]].any()


def test_bad_masks_are_refused_before_anything_changes():
    model = network()
    with pytest.raises(InputError, match="1.weight"):
        set_masks(model, {"0.weight": torch.zeros(8, 1, 3, 3), "1.weight": torch.ones(8)})
    with pytest.raises(InputError, match="shape"):
        set_masks(model, {"0.weight": torch.zeros(8, 1, 3)})
    assert not masks_of(model)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any = None) -> None:
    x = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(model(x), torch.arange(8) % 5)
        (scaler.scale(value) if scaler else value).backward()
        return value

    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(loss)
        return
    loss()
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()


_OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    "foreach": lambda groups: torch.optim.AdamW(groups, foreach=True),
    "fused": lambda groups: torch.optim.AdamW(groups, fused=True),
    "lbfgs": lambda groups: torch.optim.LBFGS([p for group in groups for p in group["params"]]),
}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("name", _OPTIMIZERS)
def test_masks_hold_after_every_step_of_a_plain_loop(name: str, before: bool) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(16, 5))

    def optimizer_of(net: nn.Sequential) -> Any:
        return _OPTIMIZERS[name]([{"params": net[0].parameters()}, {"params": net[1:].parameters()}])

    optimizer = optimizer_of(model) if before else None
    if optimizer is not None:
        _step(model, optimizer)
    ps.sparsify(model, density=0.2, scope="local")
    optimizer = optimizer or optimizer_of(model)
    average = torch.optim.swa_utils.AveragedModel(model)
    clone = copy.deepcopy(model)
    cloned = optimizer_of(clone)
    scaler = None if name == "lbfgs" else torch.amp.GradScaler("cpu")
    masks = {name: mask.clone() for name, mask in masks_of(model).items()}
    for _ in range(3):
        _step(model, optimizer, scaler)
        average.update_parameters(model)
        _step(clone, cloned)
        for net in (model, clone, average.module):
            weights = dict(net.named_parameters())
            assert all(not weights[key][~mask].any() for key, mask in masks.items())
            assert all(weights[key][mask].any() for key, mask in masks.items())


def test_layers_that_are_gone_are_watched_no_longer() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    ps.sparsify(model, density=0.5)
    layer = weakref.ref(model[0])
    del model
    gc.collect()
    assert layer() is None


def test_masks_of_torch_are_none_of_ours() -> None:
    layer = torch.nn.utils.prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)
    assert not masks_of(nn.Sequential(layer))
