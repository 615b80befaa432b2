"""What the commands share: times, examples, the store option, errors that a user can mend."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Final, ParamSpec

import click
from pydantic import ValidationError

from pipeline.metering.units import parse_time
from pipeline.settings import Settings

P = ParamSpec("P")

#: Errors that are the user's to mend: their message is enough, a traceback would hide it.
_EXPECTED: Final = (
    "StoreError",
    "StoreInUse",
    "StoreUnavailable",
    "KafkaAway",
    "TopicMismatch",
    "OffsetsLost",
    "PartitionsAdded",
    "SendRefused",
    "BrokerUnavailable",
    "UnreadableFile",
    "InvalidMeters",
    "InvalidSchema",
    "InvalidProjects",
    "InvalidPlans",
    "InvoiceRefused",
    "InvalidLimits",
    "InvalidRules",
    "SpoolInUse",
    "SpoolUnavailable",
    "MemoryUnavailable",
    "ApiRefused",
    "UnknownMeter",
    "InvalidTargets",
    "TargetHalted",
    "TargetAway",
)


class Time(click.ParamType):
    """A moment: RFC 3339, a date (its first instant in UTC) or `now`; in ms since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the moment in ms."""
        if isinstance(value, int):
            return value
        if value == "now":
            value = datetime.now(UTC).isoformat()
        try:
            return parse_time(value if len(value) > len("2026-09-21") else f"{value}T00:00:00Z")
        except (ValueError, IndexError):
            self.fail(f"{value!r} is not a time such as 2026-09-21T14:00:00Z, 2026-09-21 or now", param, ctx)


#: Faster than this, two answers of a server in a row would be one: servers write their lists with a delay.
_LEAST_INTERVAL_S: Final = 5
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}


class Duration(click.ParamType):
    """A duration such as 60s, 5m or 1h; in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the duration in seconds."""
        if isinstance(value, int):
            return value
        number, unit = value.rstrip("smh"), value[len(value.rstrip("smh")) :] or "s"
        if not number.isascii() or not number.isdigit() or unit not in _UNITS_S:
            self.fail(f"{value!r} is not a duration such as 60s or 5m", param, ctx)
        if int(number) * _UNITS_S[unit] < _LEAST_INTERVAL_S:
            self.fail(f"at least {_LEAST_INTERVAL_S}s: two answers in a row have to be two", param, ctx)
        return int(number) * _UNITS_S[unit]


TIME: Final = Time()
DURATION: Final = Duration()


def examples(*lines: str) -> str:
    """Return an epilog that shows commands as they are typed."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --store, with the configured one as its default."""
    return click.option(
        "--store",
        metavar="DSN",
        help="ClickHouse: chdb:///directory, or http(s)://user:password@host:port  [default: ROOMMETER_STORE]",
    )(command)


def settings_with(**changes: Any) -> Settings:
    """Return the settings from the environment, with what the command line says on top."""
    try:
        return Settings(**{name: value for name, value in changes.items() if value is not None})
    except ValidationError as error:
        problems = [f"ROOMMETER_{problem['loc'][0]}".upper() + f": {problem['msg']}" for problem in error.errors()]
        raise click.ClickException("; ".join(problems)) from error


def expected_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn errors that the user can mend into one line and exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except BrokenPipeError:  # `| head` closed our output: click ends quietly then
            raise
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__name__ not in _EXPECTED:
                raise
            raise click.ClickException(str(error)) from error

    return run
