"""Mean average precision of boxes, by COCO's protocol (cocodataset.org, "Detection evaluation"), in percent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data.targets import check_boxes
from ..errors import InputTypeError, MissingExtra
from .metric import Metric

_MOST = 100
"""Boxes of an image that count, those of the highest scores."""

Record = tuple[dict[str, Tensor], dict[str, Tensor]]
"""What was found in an image, and what is there, on the CPU."""


class AveragePrecision(Metric):
    """Area under precision over recall, the mean over classes and over the overlaps asked for.

    Args:
        found: a network's outputs → boxes, labels and scores of each image.
        name: `mAP` for overlaps of .5, .55, … .95; `mAP@.5`.
    """

    unit = "%"

    def __init__(self, found: Callable[[Any], Sequence[dict[str, Tensor]]], name: str = "mAP") -> None:
        self.name = name
        self._found = found
        self._overlaps = [0.5] if name == "mAP@.5" else [round(0.5 + 0.05 * step, 2) for step in range(10)]

    def records(self, outputs: Any, targets: Any) -> list[Record]:
        """Detections and truth of each image."""
        found = list(self._found(outputs))
        if not isinstance(targets, list | tuple) or len(targets) != len(found):
            told = f"{len(targets)} " if isinstance(targets, list | tuple) else ""
            raise InputTypeError(
                f"targets: {told}{type(targets).__name__}", f"there are detections of {len(found)} images",
                "give out one dict of boxes and labels for each image",
            )  # fmt: skip
        for number, target in enumerate(targets):
            check_boxes(target, None, None, f"target of image {number} of a batch")
        truths = [{key: one[key].detach().cpu() for key in ("boxes", "labels")} for one in targets]
        return list(zip(found, truths, strict=True))

    def value(self, records: Sequence[Any]) -> float:
        """Over all images; not a number if there is no box in any of them."""
        evaluation = self._evaluated(records)
        return _mean_precision(evaluation, None, len(records))

    def resampler(self, records: Sequence[Any]) -> Callable[[NDArray[np.int64]], float]:
        """Each image is matched only once."""
        evaluation, count = self._evaluated(records), len(records)
        return lambda chosen: _mean_precision(evaluation, chosen, count)

    def _evaluated(self, records: Sequence[Record]) -> Any:
        try:
            from faster_coco_eval import COCO, COCOeval_faster
        except ImportError as error:
            raise MissingExtra(f"metric {self.name!r}", "detection") from error
        classes = sorted({int(label) for pair in records for one in pair for label in one["labels"]})
        truth: dict[str, Any] = {
            "images": [{"id": number} for number in range(1, len(records) + 1)],
            "categories": [{"id": label, "name": str(label)} for label in classes],
            "annotations": _annotations([pair[1] for pair in records]),
        }
        reference = COCO(truth, print_function=_silent)
        detections = reference.loadRes(_annotations([pair[0] for pair in records]))
        evaluation = COCOeval_faster(
            reference, detections, "bbox", print_function=_silent, separate_eval=True
        )
        evaluation.params.maxDets, evaluation.params.iouThrs = [_MOST], np.array(self._overlaps)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        return evaluation


def _annotations(images: Sequence[dict[str, Tensor]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        boxes = image["boxes"].double()
        scores = image["scores"].tolist() if "scores" in image else [1.0] * len(boxes)
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).tolist()
        for corner, side, label, score in zip(
            boxes[:, :2].tolist(), sides, image["labels"].tolist(), scores, strict=True
        ):
            found.append({
                "id": len(found) + 1, "image_id": number, "category_id": int(label), "bbox": [*corner, *side],
                "area": side[0] * side[1], "iscrowd": 0, "score": score,
            })  # fmt: skip
    return found


def _mean_precision(evaluation: Any, drawn: NDArray[np.int64] | None, count: int) -> float:
    """In percent, of all images or of those drawn; evaluations are in the order of classes, images within."""
    from faster_coco_eval import faster_eval_api_cpp as library

    images = evaluation._evalImgs_cpp
    if drawn is not None:
        images = [images[start + one] for start in range(0, len(images), count) for one in drawn]
    precision = np.asarray(library.COCOevalAccumulate(evaluation._paramsEval, images)["precision"])
    known = precision[precision > -1]  # of classes that no image has, COCO's tools say -1
    return 100 * float(known.mean()) if known.size else float("nan")


def _silent(*_: Any) -> None:
    """The library tells its progress."""
