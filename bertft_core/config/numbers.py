"""Numbers as every settings file reads them: finite, and never true or false, which Python takes for 1 and 0."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def no_bool(value: Any) -> Any:
    """`value`, unless it is a bool. Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError("must not be true or false (quote them where they are names)")
    return value


Number = Annotated[float, BeforeValidator(no_bool), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(no_bool)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(gt=0, lt=1)]  # neither nothing nor all
