"""What criteria ask about a network: gradients, curvature and activations over data, computed once, when asked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ...data.batches import Inputs, moved, run, split_batch
from ...errors import InputError, InputTypeError
from ...graph.trace import quiet
from ...tasks.catalog import with_task
from ...tasks.imitation import Imitation

_PROBES = 4
"""Random vectors per batch in Hutchinson's estimate."""


class Statistics:
    """Lazy statistics of `model` over `data`.

    Args:
        model: unchanged; gradients that its parameters hold are kept.
        data: a split or an iterable of batches (images, labels); None for criteria that read weights alone.
        seed: of random criteria and estimates.
        loss: of outputs and targets; by default the task's.
        task: see `pintsize.train`.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any = None,
        seed: int = 0,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        task: Any = None,
    ) -> None:
        self.model = model
        self.task, self.data = with_task(task, data)
        self.loss = loss or (F.cross_entropy if self.task.key == "accuracy" else self.task.loss)
        self._imitation = self.task if loss is None and isinstance(self.task, Imitation) else None
        self._no_loss = loss is None and self.task.own_step
        self.generator = torch.Generator().manual_seed(seed)
        self._seed = seed
        self._power_sums: dict[tuple[str, int, int], Tensor] = {}
        self._tensors = {
            **dict(model.named_buffers()),
            **dict(model.named_parameters(remove_duplicate=False)),
        }

    def parameter(self, name: str) -> Tensor:
        """The parameter or buffer of that name."""
        return self._tensors[name]

    def power_sum(self, name: str, dim: int, order: int) -> Tensor:
        """Σ |w|^order for each index of a parameter's dimension, once for all groups that share it."""
        key = name, dim, order
        if key not in self._power_sums:
            tensor = self._tensors[name].detach().float()
            others = [d for d in range(tensor.dim()) if d != dim]
            self._power_sums[key] = torch.linalg.vector_norm(tensor, order, others) ** order
        return self._power_sums[key]

    def gradient(self, name: str) -> Tensor:
        """Mean gradient of the loss over the batches."""
        return self._gradients[0][name]

    def squared_gradient(self, name: str) -> Tensor:
        """Mean squared gradient over the batches (empirical Fisher)."""
        return self._gradients[1][name]

    def hessian(self, name: str) -> Tensor:
        """Diagonal of the Hessian of the loss, estimated."""
        return self._hessians[name]

    def mean_activation(self, layer: str) -> Tensor:
        """Mean absolute input of a layer, per channel."""
        return self._activations[layer][0]

    def nonzero_share(self, layer: str) -> Tensor:
        """Share of the layer's input that is not zero, per channel."""
        return self._activations[layer][1]

    def batches(self, what: str) -> Iterator[tuple[Inputs, Any]]:
        """The batches on the model's device."""
        if self.data is None:
            raise InputError(
                f"importance by {what}", "it needs data", "pass data=, e.g. data.train.subset(512)"
            )
        if self._no_loss:
            raise InputError(
                f"importance by {what} for task {self.task.name!r}",
                "the network computes its loss itself, in training mode",
                "pass loss=, a function of outputs and targets, or choose a criterion of the weights such as l2",
            )
        device = next(self.model.parameters()).device
        seen = False
        for batch in self.data:
            inputs, targets = split_batch(batch, self.model)
            if self._imitation is not None:  # at its own outputs the network has no gradient
                with torch.no_grad():
                    targets = self._imitation.probe(run(self.model, moved(inputs, device)), self.generator)
            if targets is None:
                raise InputError(
                    f"importance by {what}", "its data has no labels", "pass batches of (images, labels)"
                )
            if self.loss is F.cross_entropy and not isinstance(targets, Tensor):
                raise InputTypeError(
                    f"importance by {what}",
                    f"its targets are {type(targets).__name__}, and cross-entropy needs a tensor",
                    "give out classes int64 [B], name the task, or pass loss=, a function of outputs and targets",
                )
            seen = True
            # contiguous: the channels-last gradients of some convolutions are wrong, see train.placement
            yield tree_map_only(Tensor, Tensor.contiguous, moved(inputs, device)), moved(targets, device)
        if not seen:
            raise InputError(f"importance by {what}", "its data is empty", "pass at least one batch")

    def _trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def _shared(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same result under every name of a shared parameter, zeros where nothing is trained."""
        by_id = {id(p): found[name] for name, p in self._trainable().items()}
        return {
            name: by_id[id(p)] if id(p) in by_id else torch.zeros_like(p)
            for name, p in self.model.named_parameters(remove_duplicate=False)
        }

    @functools.cached_property
    def _gradients(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        parameters = self._trainable()
        mean = {name: torch.zeros_like(p) for name, p in parameters.items()}
        square = {name: torch.zeros_like(p) for name, p in parameters.items()}
        count = 0
        with quiet(self.model), torch.enable_grad():
            for images, labels in self.batches("gradients"):
                loss = self.loss(run(self.model, images), labels)
                grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                for name, grad in zip(parameters, grads, strict=True):
                    if grad is not None:
                        mean[name] += grad
                        square[name] += grad.square()
                count += 1
        mean, square = ({name: t / count for name, t in table.items()} for table in (mean, square))
        return self._shared(mean), self._shared(square)

    @functools.cached_property
    def _hessians(self) -> dict[str, Tensor]:
        parameters = self._trainable()
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        generator = torch.Generator().manual_seed(self._seed)
        count = 0
        with quiet(self.model), torch.enable_grad():
            for images, labels in self.batches("curvature"):
                loss = self.loss(run(self.model, images), labels)
                grads = torch.autograd.grad(
                    loss, list(parameters.values()), create_graph=True, materialize_grads=True
                )
                for _ in range(_PROBES):
                    signs = [
                        (torch.randint(0, 2, p.shape, generator=generator) * 2 - 1).to(p)
                        for p in parameters.values()
                    ]
                    products = torch.autograd.grad(
                        grads, list(parameters.values()), signs, retain_graph=True, materialize_grads=True
                    )
                    for name, sign, product in zip(parameters, signs, products, strict=True):
                        total[name] += sign * product
                    count += 1
        return self._shared({name: tensor / count for name, tensor in total.items()})

    @functools.cached_property
    def _activations(self) -> dict[str, tuple[Tensor, Tensor]]:
        sums: dict[str, list[Tensor]] = {}

        def note(path: str, channel: int, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().movedim(channel, 0).flatten(1)
            new = [x.abs().sum(1), (x != 0).float().sum(1), torch.tensor(float(x.shape[1]))]
            sums[path] = [a + b for a, b in zip(sums[path], new, strict=True)] if path in sums else new

        handles = [
            module.register_forward_pre_hook(
                functools.partial(note, path, -1 if isinstance(module, nn.Linear) else 1)
            )
            for path, module in self.model.named_modules()
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        ]
        try:
            with quiet(self.model):
                for images, _ in self.batches("activations"):
                    run(self.model, images)
        finally:
            for handle in handles:
                handle.remove()
        return {path: (total[0] / total[2], total[1] / total[2]) for path, total in sums.items()}
