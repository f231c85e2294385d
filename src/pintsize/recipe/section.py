"""What all sections of a recipe have in common."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from .bits import NONE


class Section(BaseModel):
    """Unknown keys are refused, values and defaults checked; a field's docstring is its description."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        validate_assignment=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _none_in_words(cls, value: Any, info: ValidationInfo) -> Any:
        """Where null switches off what is on by default, a command line writes `none` or `null`."""
        field = cls.model_fields[str(info.field_name)]
        said = isinstance(value, str) and value in NONE
        return None if said and switches_off(field.annotation, field.default) else value


def switches_off(annotation: Any, default: Any) -> bool:
    """Whether null is a value of a field apart from its default."""
    return default is not None and type(None) in get_args(annotation)
