"""The size of images as a person gives it."""

from __future__ import annotations

import numbers
from typing import Any

from ..errors import InputError


def sides(image_size: Any) -> tuple[int, int] | None:
    """Height and width of images as they are given: a side, `HxW` in words, or both in a tuple; None for None.

    Raises:
        InputError: it is none of these.
    """
    if image_size is None:
        return None
    given = image_size
    if isinstance(given, str):
        given = given.strip().lower().replace("×", "x").split("x")
        given = [int(side) if side.strip().isdecimal() else side for side in given]
        given = given * 2 if len(given) == 1 else given
    found = tuple(given) if isinstance(given, tuple | list) else (given, given)
    whole = [int(side) for side in found if isinstance(side, numbers.Integral) and not isinstance(side, bool)]
    if len(whole) != len(found) or len(found) != 2 or min(whole) < 1:
        raise InputError(
            f"image_size={image_size!r}",
            "it is not a side, or height and width",
            "pass 224, 224x320 or (224, 320)",
        )
    return whole[0], whole[1]
