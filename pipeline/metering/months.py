"""Calendar months in UTC: what invoices are made of."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Self

from pipeline.metering.units import MS_PER_HOUR, MS_PER_SECOND

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MONTH: Final = re.compile(r"(2[01]\d\d)-(0[1-9]|1[0-2])", re.ASCII)


class Month(NamedTuple):
    """A calendar month in UTC; months compare as they follow each other."""

    year: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a month such as 2026-10; raises ValueError for anything else, and outside of 2000 to 2199."""
        found = _MONTH.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:40]!r} is not a month such as 2026-10")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def at(cls, time_ms: int) -> Self:
        """Return the month that a time lies in."""
        moment = _EPOCH + timedelta(milliseconds=time_ms)
        return cls(moment.year, moment.month)

    def __str__(self) -> str:
        """Write it as 2026-10."""
        return f"{self.year:04}-{self.number:02}"

    def shifted(self, months: int) -> Self:
        """Return the month so many months later; earlier, where negative."""
        index = self.year * 12 + self.number - 1 + months
        return type(self)(index // 12, index % 12 + 1)

    @property
    def start_ms(self) -> int:
        """The month's first instant."""
        elapsed = datetime(self.year, self.number, 1, tzinfo=UTC) - _EPOCH
        return (elapsed.days * 86_400 + elapsed.seconds) * MS_PER_SECOND

    @property
    def end_ms(self) -> int:
        """The first instant of the next month."""
        return self.shifted(1).start_ms

    @property
    def hours(self) -> int:
        """How many hours it has: 672 to 744."""
        return (self.end_ms - self.start_ms) // MS_PER_HOUR
