"""Base of the recipe's sections, and the numbers they share."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]
Clusters = Annotated[int, Field(ge=2, le=65_536)]
"""Sizes of codebooks; ids are stored as uint16."""


class Section(BaseModel):
    """Frozen, strict about keys; numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def tag_of(key: str, default: str) -> Callable[[Any], str]:
    """Return the discriminator of a union of sections: the value of `key`, or the default where it is left out."""

    def tag(value: Any) -> str:
        found = value.get(key, default) if isinstance(value, dict) else getattr(value, key, default)
        return str(found)

    return tag
