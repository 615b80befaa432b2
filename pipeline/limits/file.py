"""The limits file: `[[limit]]` tables in TOML, what they may hold, and how mistakes in it are reported.

Unknown fields are mistakes, since a typo must not pass in silence.
"""

import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from pipeline.metering.events import MAX_QUANTITY
from pipeline.metering.limits import CONCURRENT, EVERY_PROJECT, Limit, Limits, Per
from pipeline.metering.meters import Kind, Meters

_AMOUNT: Final = re.compile(r"(0|[1-9]\d{0,17})(\.\d{1,9})?", re.ASCII)
_PROJECT: Final = re.compile(r"[!-~]{1,256}")


class InvalidLimits(ValueError):
    """The limits file cannot be used; the message names file, table and field, and what to do."""


def _check_amount(text: str) -> str:
    if not _AMOUNT.fullmatch(text) or Decimal(text) == 0:
        raise ValueError('is not a decimal above 0 in the unit of the meter; write it in quotes, as "1000" or "0.5"')
    return text


def _check_project(text: str) -> str:
    if not _PROJECT.fullmatch(text):
        raise ValueError(f"is not the name of a project, nor {EVERY_PROJECT!r} for every one")
    return text


_Amount = Annotated[str, AfterValidator(_check_amount)]


class _LimitTable(BaseModel):
    """`[[limit]]`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    project: Annotated[str, AfterValidator(_check_project)]
    meter: str = ""
    per: Literal["", "hour", "day", "month"] = ""
    concurrent: Literal["", Kind] = ""
    soft: _Amount | None = None
    hard: _Amount | None = None

    @model_validator(mode="after")
    def _limits_one_thing(self) -> Self:
        if bool(self.meter) == bool(self.concurrent) or bool(self.meter) != bool(self.per):
            raise ValueError("needs either meter and per (hour, day or month), or concurrent with a kind of session")
        if self.soft is None and self.hard is None:
            raise ValueError("needs soft, hard or both")
        if self.soft and self.hard and Decimal(self.soft) > Decimal(self.hard):
            raise ValueError(f"soft = {self.soft} is more than hard = {self.hard}; exchange them")
        return self


class _LimitsFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    limit: list[_LimitTable]


def parse_limits(text: str, meters: Meters, origin: str) -> Limits:
    """Read limits from TOML text; raises InvalidLimits with every problem found, one a line."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidLimits(f"{origin}: not TOML: {error}") from error
    try:
        tables = _LimitsFile.model_validate(document).limit
    except ValidationError as error:
        raise InvalidLimits("\n".join(f"{origin}: {_told(problem)}" for problem in error.errors())) from None
    found: dict[tuple[str, str, Per], Limit] = {}
    problems = []
    for number, table in enumerate(tables):
        try:
            limit = _limit(table, meters)
        except ValueError as error:
            problems.append(f"{origin}: limit.{number}: {error}")
            continue
        key = (table.project, limit.meter, limit.per)
        if key in found:
            problems.append(f"{origin}: limit.{number}: {' '.join(key)} has a limit already; keep one of them")
        found[key] = limit
    if problems:
        raise InvalidLimits("\n".join(problems))
    return Limits((project, limit) for (project, _, _), limit in found.items())


def read_limits(path: Path | None, meters: Meters) -> Limits | None:
    """Read the limits file, None where none is named; raises InvalidLimits, OSError."""
    if path is None:
        return None
    try:
        return parse_limits(path.read_text("utf-8"), meters, str(path))
    except UnicodeDecodeError as error:
        raise InvalidLimits(f"{path}: not text in UTF-8: {error}") from error


def _limit(table: _LimitTable, meters: Meters) -> Limit:
    """Return the limit of a table; raises ValueError saying what to mend."""
    if table.concurrent:
        name, per, unit, unit_size = f"{CONCURRENT}{table.concurrent}", "now", "session", 1
    else:
        meter = meters.get(table.meter)
        if meter is None:
            raise ValueError(f"there is no meter {table.meter!r}; there are: {', '.join(sorted(meters))}")
        name, per, unit, unit_size = meter.name, table.per, meter.unit, meter.unit_size
    soft, hard = (_base_units(text, unit_size, unit) for text in (table.soft, table.hard))
    return Limit(name, cast("Per", per), soft, hard, unit, unit_size)


def _base_units(text: str | None, unit_size: int, unit: str) -> int | None:
    """Return an amount in base units; raises ValueError for a part that the unit does not have."""
    quantity = None if text is None else Decimal(text) * unit_size
    if quantity is not None and quantity != int(quantity):
        raise ValueError(f"{text} has more decimals than a {unit} is measured in")
    if quantity is not None and quantity > MAX_QUANTITY:
        raise ValueError(f"{text} is more than can be counted")
    return None if quantity is None else int(quantity)


def _told(problem: Mapping[str, Any]) -> str:
    """Return a problem as place and advice, in our own words where pydantic's are about Python."""
    where = ".".join(str(part) for part in problem["loc"])
    advice = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        advice = "is no field of this table; mend its spelling or remove it"
    elif problem["type"] == "missing":
        advice = "is missing; the file consists of [[limit]] tables" if where == "limit" else "is missing; give it"
    elif problem["type"] == "string_type":
        advice = "is no text; put it in quotes"
    return f"{where}: {advice}"
