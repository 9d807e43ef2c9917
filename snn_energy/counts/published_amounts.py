"""Number types of a file of published counts: amounts with units, whole numbers, shares, amounts per time step."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated

from pydantic import BeforeValidator, model_validator

from snn_energy.core.yaml_file import StrictModel, format_value, schema_error

UNITS: Mapping[str, int] = {"k": 3, "M": 6, "G": 9, "T": 12}  # power of ten
LARGEST = 2**63 - 1


def _as_number(value: object) -> int | float:
    """A finite number >= 0, plain or as "6.82 G"; integers stay int, and no digit is lost."""
    if isinstance(value, str):
        exact = _scaled(value)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise schema_error(f"must be a number, not {format_value(value)}")
    elif not math.isfinite(value):
        raise schema_error(f"must be finite, not {value}; remove the key if the count is unknown")
    else:
        exact = Decimal(repr(value))
    if exact < 0:
        raise schema_error(f"must not be negative, but is {value}")
    if exact > LARGEST:
        raise schema_error(f"is larger than the largest supported value ({LARGEST})")
    return _exact(exact)


def _exact(exact: Decimal) -> int | float:
    return int(exact) if exact == exact.to_integral_value() else float(exact)


def _scaled(text: str) -> Decimal:
    """ "6.82 G" as 6.82 * 10^9."""
    found = re.fullmatch(r"([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(\S*)", text.strip())
    try:
        exact = Decimal(found[1] if found is not None else "")
    except InvalidOperation:
        raise schema_error(f'must be a number, or one with a unit such as "6.82 G", not the text {text!r}') from None
    unit = found[2] if found is not None else ""
    if unit and unit not in UNITS:
        near = {known.lower(): known for known in UNITS}.get(unit[0].lower())
        raise schema_error(
            f"unit '{unit}' is not one of {', '.join(UNITS)}" + (f"; did you mean '{near}'?" if near else "")
        )
    try:
        return exact.scaleb(UNITS.get(unit, 0))
    except InvalidOperation:
        raise schema_error(f"is larger than the largest supported value ({LARGEST})") from None


def _as_whole(value: object) -> int:
    """A whole number >= 0."""
    number = _as_number(value)
    if isinstance(number, float):
        raise schema_error(f"must be a whole number, not {format_value(value)}")
    return number


def _as_count(value: object) -> int:
    """A whole number >= 1."""
    number = _as_whole(value)
    if number < 1:
        raise schema_error(f"must be at least 1, not {format_value(value)}")
    return number


def _as_share(value: object) -> int | float:
    """A number between 0 and 1."""
    number = _as_number(value)
    if number > 1:
        raise schema_error(f"is a share, at most 1, not {format_value(value)}")
    return number


NonNegativeNumber = Annotated[int | float, BeforeValidator(_as_number)]
NonNegativeInt = Annotated[int, BeforeValidator(_as_whole)]
PositiveInt = Annotated[int, BeforeValidator(_as_count)]
Share = Annotated[int | float, BeforeValidator(_as_share)]


class PerStepAmount(StrictModel):
    """An amount: ``once`` per inference, plus ``per_step`` in every time step."""

    once: NonNegativeNumber = 0
    per_step: NonNegativeNumber = 0

    @model_validator(mode="after")
    def _require_key(self) -> PerStepAmount:
        if not self.model_fields_set:
            raise schema_error("is empty; write a number, or {once: N, per_step: N}")
        return self

    def total(self, time_steps: int) -> int | float:
        """once + per_step * time_steps, exactly."""
        return _exact(Decimal(repr(self.once)) + Decimal(repr(self.per_step)) * time_steps)


def _as_amount(value: object) -> object:
    """A plain number is an amount once per inference."""
    return value if isinstance(value, dict) else PerStepAmount(once=_as_number(value))


PerInference = Annotated[PerStepAmount, BeforeValidator(_as_amount)]
