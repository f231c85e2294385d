"""What pintsize raises: every message names the object, the cause and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PintsizeError(Exception):
    """Base of all errors that pintsize raises on purpose.

    Args:
        what: the object at fault: a file, a parameter, an option with its value.
        cause: what is wrong with it.
        remedy: what the user can do.
    """

    def __init__(self, what: str, cause: str, remedy: str) -> None:
        super().__init__(what, cause, remedy)  # all three, so that the error survives pickling
        self.what, self.cause, self.remedy = what, cause, remedy

    def __str__(self) -> str:
        return f"{self.what}: {self.cause}; {self.remedy}"


class InputError(PintsizeError, ValueError):
    """A value the user gave cannot be used."""


class InputTypeError(PintsizeError, TypeError):
    """An object the user gave has the wrong type."""


class OperationError(PintsizeError, RuntimeError):
    """A well-formed request could not be carried out."""


class UnsupportedOp(OperationError):
    """An operation of the network is not understood, so nothing that depends on it is touched."""


class IllegalOrder(InputError):
    """A compression step may not follow the steps already in the model's record."""


class DataNotFound(InputError):
    """A data set is in none of the places where it is looked for."""


class CorruptFile(InputError):
    """A file is damaged, truncated, or not what its suffix says."""


class MissingExtra(OperationError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        PintsizeError.__init__(
            self,
            feature,
            f"the optional dependency '{extra}' is not installed",
            f"pip install 'pintsize[{extra}]'",
        )
        self._init_args = (feature, extra)

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), self._init_args


class TrainingDiverged(OperationError):
    """The training loss became NaN or infinite."""


class VerificationFailed(OperationError):
    """An exported file does not compute what the model it was exported from computes."""


def unknown(kind: str, name: object, choices: Iterable[str]) -> InputError:
    """The error for a name that is not among `choices`, with the nearest valid names."""
    valid = sorted(choices)
    near = difflib.get_close_matches(str(name), valid, n=3, cutoff=0.5)
    remedy = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose one of: {', '.join(valid)}"
    return InputError(f"{kind} {name!r}", f"there is no such {kind}", remedy)
