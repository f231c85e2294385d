"""Networks of other libraries by name, `timm:NAME` and `torchvision:NAME`: what both have in common.

A library is a module of this package with `names`, `knows`, `expected`, `build` and `pretrain`; it is imported when one of
its networks is asked for.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import os
from types import ModuleType
from typing import Any

from torch import nn

from ..errors import InputError, MissingExtra, OperationError
from ..storage.preprocessing import Preprocessing, note
from ..storage.record import set_origin

LIBRARIES = {"timm": ".timm_names", "torchvision": ".torchvision_names"}
"""Prefix of a name, which is also the name of the package and of its extra → the module that knows its networks."""


def is_outside(name: str) -> bool:
    """Whether a name is one of another library's."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix in LIBRARIES


def names(pattern: str) -> list[str]:
    """Those that match a pattern such as `timm:mobilenetv3*`, sorted.

    Raises:
        MissingExtra: the library is not installed.
    """
    prefix, _, rest = pattern.partition(":")
    return [f"{prefix}:{name}" for name in sorted(fnmatch.filter(_library(prefix).names(), rest or "*"))]


def expected(name: str) -> Preprocessing | None:
    """How the images of its weights were made; None where the library does not tell.

    Raises:
        InputError: there is no such network.
        MissingExtra: the library is not installed.
    """
    library, rest = _found(name)
    found: Preprocessing | None = library.expected(rest)
    return found


def create(
    name: str, *, num_classes: int | None, in_channels: int | None, pretrained: bool,
    weights: str | os.PathLike[str] | None,
) -> nn.Module:  # fmt: skip
    """A network of another library; see `pintsize.models.create`.

    Args:
        name: with its prefix.
        num_classes: None for those of the weights.
        in_channels: None for those of the weights.
        pretrained: with the library's weights: layers that do not fit other classes start anew.
        weights: a file to take these from, in place of the library's cache or its server.
    """
    library, rest = _found(name)
    known: Preprocessing | None = library.expected(rest)
    classes = num_classes or (known.num_classes if known is not None else None)
    channels = in_channels or 3
    if pretrained:
        model: nn.Module = library.pretrain(rest, num_classes=classes, in_channels=channels, weights=weights)
    else:
        model = library.build(rest, num_classes=classes, in_channels=channels)
    _noted(model, name, known, channels, classes, trained=pretrained or weights is not None)
    return model


def rebuilt(
    name: str, *, in_channels: int, num_classes: int | None = None, pretrained: bool = False
) -> nn.Module:
    """The plain network that a file names, without weights: for what is in a file nothing is fetched.

    Args:
        name: with its prefix.
        in_channels: of its images.
        num_classes: None for those of its weights.
        pretrained: what it expects is that of the library's weights.
    """
    library, rest = _found(name)
    model: nn.Module = library.build(rest, num_classes=num_classes, in_channels=in_channels)
    _noted(model, name, library.expected(rest), in_channels, num_classes, trained=pretrained)
    return model


def _noted(
    model: nn.Module, name: str, known: Preprocessing | None, channels: int, classes: int | None, *, trained: bool
) -> None:  # fmt: skip
    options: dict[str, Any] = {"in_channels": channels}
    options |= {} if classes is None else {"num_classes": classes}
    set_origin(model, name, options | ({"pretrained": True} if trained else {}))
    if trained and known is not None:
        note(model, known.for_channels(channels))


def _found(name: str) -> tuple[ModuleType, str]:
    prefix, _, rest = name.partition(":")
    library = _library(prefix)
    if not library.knows(rest):
        near = difflib.get_close_matches(rest.partition(".")[0], library.names(), n=3)
        raise InputError(
            f"model {name!r}", f"{prefix} has none of this name",
            f"did you mean {' or '.join(f'{prefix}:{one}' for one in near)}?" if near
            else f"pintsize.models.list('{prefix}:*') lists them",
        )  # fmt: skip
    return library, rest


def _library(prefix: str) -> ModuleType:
    imported(prefix)
    return importlib.import_module(LIBRARIES[prefix], __package__)


def imported(package: str) -> Any:
    """The package of a library.

    Raises:
        MissingExtra: it is not installed.
        OperationError: it is, but cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"networks named {package}:…", package) from error
    except Exception as error:  # torchvision's compiled part, made for another torch, fails in many ways
        raise OperationError(
            f"networks named {package}:…",
            f"the package {package} is installed but cannot be imported ({type(error).__name__}: {error})",
            "install the version that goes with the torch that is here: "
            f"pip install --force-reinstall {package} torchvision",
        ) from error


def not_fetched(name: str, error: Exception, where: str) -> OperationError:
    """The error for weights that could not be had."""
    lines = str(error).strip().splitlines()
    return OperationError(
        f"weights of {name!r}",
        f"they are not in the local cache and cannot be fetched ({type(error).__name__}: {lines[0] if lines else ''})",
        f"fetch {where} where there is a network, and pass the file: pretrained=True, weights=FILE",
    )


def no_weights(name: str) -> InputError:
    """The error for a network that was never trained."""
    return InputError(f"model {name!r} with pretrained=True", "the library has no weights of it",
                      "leave pretrained out, or choose a network that has some")  # fmt: skip
