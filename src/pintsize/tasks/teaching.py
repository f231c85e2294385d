"""A split whose targets are a network's outputs: computed as they are asked for, remembered where images do not change."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..data import Split, UnlabelledSplit, chance, varied
from ..data.batches import Inputs, moved, size, split_batch
from ..data.digest import images_digest, split_digest
from ..data.places import cache_folder
from ..errors import OperationError
from ..storage.atomic import atomic
from ..storage.digests import digest, model_digest

OUTPUTS = "outputs of imitation"
"""Key of a network's outputs beside its feature maps."""
_MAPS = 8
MEMORY_LIMIT = 2**31
"""Bytes of outputs of one split that are remembered."""
DISK_LIMIT = 2**33
"""Bytes of outputs of all splits and networks in the cache folder; the oldest go."""
WORTH_KEEPING = 5.0
"""Seconds of the teacher's from which on its outputs are kept for the next start."""
_log = logging.getLogger(__name__)


def plain(outputs: Any) -> Any:
    """Outputs without the feature maps beside them."""
    return outputs[OUTPUTS] if isinstance(outputs, Mapping) and OUTPUTS in outputs else outputs


@contextlib.contextmanager
def watched(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The feature maps inside a network, by module, once it has run: those of its larger parts, a few of them."""
    maps: dict[str, Tensor] = {}
    handles = []
    least = 1 if getattr(network, "heads", ()) else 2  # a head may be a linear layer

    def noting(name: str) -> Any:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            del module, args
            if isinstance(output, Tensor) and output.is_floating_point() and output.dim() > least:
                maps[name] = output

        return note

    for name, module in _parts(network).items():
        handles.append(module.register_forward_hook(noting(name)))
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _parts(network: nn.Module) -> dict[str, nn.Module]:
    """Blocks, evenly chosen; where there are none, all modules of the first level.

    Of a network from a file that decodes its results: the layers in front of that.
    """
    if heads := getattr(network, "heads", ()):
        return {name: network.get_submodule(name) for name in heads}
    named = {
        name.removeprefix("module."): one
        for name, one in network.named_modules()
        if name not in ("", "module")
    }
    blocks = {name: one for name, one in named.items() if any(True for _ in one.children())}
    found = list((blocks or named).items())
    numbers = np.linspace(0, max(len(found) - 1, 0), min(_MAPS, len(found))).round().astype(int)
    return dict(found[at] for at in np.unique(numbers).tolist())


@dataclass(eq=False)
class Lesson:
    """A teacher, and what it has said so far."""

    teacher: nn.Module
    """In eval mode."""
    task: Any
    """`Imitation`."""
    said: dict[str, Answers] = field(default_factory=dict)
    """By the digest of a split."""

    def of(self, inputs: Inputs) -> Any:
        """What the teacher says of a batch, where it is."""
        device = next((one.device for one in self.teacher.parameters()), torch.device("cpu"))
        with torch.no_grad():  # and not while whoever asked goes on
            return self.task.outputs(self.teacher, moved(inputs, device))

    def remembered(self, split: Any) -> Answers | None:
        """What it has said of a split; None where its images are not known by a digest."""
        images = images_digest(split)
        if images is None:
            return None
        if images not in self.said:
            key = digest([images, model_digest(self.teacher), bool(self.task.features)])
            self.said[images] = Answers(key, len(split))
        return self.said[images]


class Answers:
    """The outputs of a network for the images of a split, as far as they are known.

    Args:
        key: digest of images and network.
        count: of the images.
    """

    def __init__(self, key: str, count: int) -> None:
        self._key, self._count, self._seconds = key, count, 0.0
        self._leaves: list[Tensor] | None = None
        self._structure: Any = None
        self._known = torch.zeros(count, dtype=torch.bool)
        self._fits = True

    def find(self, images: Tensor, lesson: Lesson, inputs: Inputs) -> Any:
        """Outputs for the images at these positions: from memory, else from the teacher."""
        if self._leaves is not None and bool(self._known[images].all()):
            return tree_unflatten([leaf[images] for leaf in self._leaves], self._structure)
        began = time.perf_counter()
        outputs = moved(lesson.of(inputs), "cpu")
        self._seconds += time.perf_counter() - began
        self._note(images, outputs)
        return outputs

    def _note(self, images: Tensor, outputs: Any) -> None:
        leaves, structure = tree_flatten(outputs)
        whole = all(isinstance(one, Tensor) and one.dim() and len(one) == len(images) for one in leaves)
        if self._leaves is None and self._fits:
            bytes_each = sum(one[0].numel() * one.element_size() for one in leaves) if whole else 0
            self._fits = whole and bytes_each * self._count <= MEMORY_LIMIT
            if self._fits:
                self._structure = structure
                self._leaves = self._recalled(leaves) or [
                    one.new_empty(self._count, *one.shape[1:]) for one in leaves
                ]
        if self._leaves is None or not whole or bool(self._known.all()):
            return
        if [one.shape[1:] for one in leaves] != [one.shape[1:] for one in self._leaves]:
            self._leaves, self._fits = None, False  # sizes of its own for each batch
            return
        for kept, one in zip(self._leaves, leaves, strict=True):
            kept[images] = one
        self._known[images] = True
        if bool(self._known.all()) and self._seconds >= WORTH_KEEPING:
            self._keep()

    def _recalled(self, like: Sequence[Tensor]) -> list[Tensor] | None:
        """What an earlier start left; None if there is nothing of this kind."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._file, framework="pt") as file:
                found = [file.get_tensor(str(number)) for number in range(len(like))]
        except (SafetensorError, OSError, ValueError):
            return None
        shapes = [(self._count, *one.shape[1:]) for one in like]
        if [tuple(one.shape) for one in found] != shapes or [one.dtype for one in found] != [
            one.dtype for one in like
        ]:
            return None
        self._known[:] = True
        return found

    def _keep(self) -> None:
        """For the next start; where that is impossible only time is lost."""
        from safetensors.torch import save_file

        assert self._leaves is not None
        try:
            _make_room(sum(one.numel() * one.element_size() for one in self._leaves))
            with atomic(self._file) as temporary:
                save_file(
                    {str(number): one.contiguous() for number, one in enumerate(self._leaves)}, temporary
                )
        except (OperationError, OSError) as error:
            _log.info("outputs of the dense network are not kept for the next start: %s", error)

    @property
    def _file(self) -> Any:
        return cache_folder() / f"taught-{self._key[:32]}.safetensors"


def _make_room(needed: int) -> None:
    """Delete the oldest outputs until those that are left, and so many bytes more, are within the limit."""
    files = sorted(
        cache_folder().glob("taught-*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True
    )
    for file in files:
        needed += file.stat().st_size
        if needed > DISK_LIMIT:
            file.unlink(missing_ok=True)


class Taught:
    """A split whose targets are a network's outputs; all else is that of the split.

    Args:
        split: any; or an iterable of batches.
        lesson: the network, and the task.
    """

    def __init__(self, split: Any, lesson: Lesson) -> None:
        self._split, self._lesson = split, lesson
        self.task = lesson.task
        self.classes: tuple[str, ...] = ()
        self._answers: list[Answers | None] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while it is being copied there is nothing to ask yet
            raise AttributeError(name)
        return getattr(self._split, name)

    def __len__(self) -> int:
        return len(self._split)

    def __iter__(self) -> Iterator[Any]:
        return self.batches()

    def batches(self, batch_size: int = 256, **options: Any) -> Iterator[Any]:
        """Inputs, and what the teacher says of them: once, as long as nothing changes them."""
        device = options.get("device", "cpu")
        lesson, augment = self._lesson, options.get("augment", False)
        split, answers = self._split, None
        chosen: list[Tensor] = []
        if isinstance(split, Split) and not augment:
            self._answers = self._answers or [lesson.remembered(split)]
            answers = self._answers[0]
            asked = {key: value for key, value in options.items() if key not in ("augment", "device")}
            chosen = list(split.order(batch_size, **asked))
        given = split.batches(batch_size, **options) if hasattr(split, "batches") else split
        for number, batch in enumerate(given):
            inputs, _ = split_batch(batch, lesson.teacher)
            if augment and lesson.task.mix:
                inputs = _mixed(
                    inputs, lesson.task.mix, options.get("seed", 0), options.get("epoch", 0), number
                )
            targets = lesson.of(inputs) if answers is None else answers.find(chosen[number], lesson, inputs)
            yield inputs, moved(targets, device)

    def digest(self) -> str:
        """Of the split and the task; the network is told of apart."""
        task = self.task
        return digest([split_digest(self._split), task.name, task.decisions, task.features, task.mix])

    def take(self, images: Tensor) -> Taught:
        """As of the split."""
        return Taught(self._split.take(images), self._lesson)

    def subset(self, n: int, seed: int = 0) -> Taught:
        """As of the split."""
        return Taught(self._split.subset(n, seed), self._lesson)

    def at_most(self, n: int, seed: int = 0) -> Taught:
        """As of the split."""
        return Taught(self._split.at_most(n, seed), self._lesson)

    def varied(self, n: int, seed: int = 0) -> Taught:
        """A choice of `n` images: where they have no labels, of those that the teacher tells apart; else by class."""
        split = self._split
        chosen = (
            varied(self._lesson.teacher, split, n, seed)
            if isinstance(split, UnlabelledSplit)
            else split.at_most(n, seed)
        )
        return Taught(chosen, self._lesson)

    def for_task(self, task: Any) -> Any:
        """The same images for another task, with their own targets."""
        return self if getattr(task, "name", task) == self.task.name else self._split.for_task(task)


def _mixed(inputs: Inputs, share: float, *key: int) -> Inputs:
    """A batch [B, C, H, W] in which a share of the images is blended with the next one of it, by any part of theirs."""
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or size(inputs) < 2:
        return inputs
    drawn = chance.words(2 * len(inputs), chance.MIXING, *key).astype(np.float64) / 2.0**64
    chosen, part = np.split(drawn, 2)
    kept = torch.from_numpy(np.where(chosen < share, part, 1.0)).float().view(-1, 1, 1, 1).to(inputs.device)
    return kept * inputs + (1 - kept) * inputs.roll(1, 0)
