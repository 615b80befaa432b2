"""Hours, days, months and bills are UTC's, wherever the process runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.metering.builders import ROOT

#: A digest of whatever depends on a calendar: periods, months, texts of times, and the bill of a log over month ends.
_PROGRAM: Final = """
import hashlib, itertools, time
from pipeline.invoices.text import minute, month_name
from pipeline.metering.limits import period
from pipeline.metering.months import Month
from pipeline.metering.units import MS_PER_HOUR, format_time, month_of, next_month, parse_time
from tests.metering.builders import METERS, connected, disconnected, event, facts_of, parsed, sampled
from pipeline.metering.usage import usage

digest = hashlib.sha256()
# Around changes of clocks and of months, in leap years and others: each half hour of some days.
days = ["2024-02-28", "2024-12-31", "2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01"]
times = [parse_time(f"{day}T00:00:00Z") + i * MS_PER_HOUR // 2 for day in days for i in range(96)]
for at in times:
    said = (format_time(at), minute(at), month_of(at), next_month(month_of(at)), Month.at(at), month_name(Month.at(at)))
    digest.update(repr((*said, [period(per, at) for per in ("hour", "day", "month")])).encode())
    assert parse_time(format_time(at)) == at
log = []
for number, at in enumerate(times):
    which = {"session": f"PA_{number}", "room": f"RM_{number % 9}"}
    log += [connected(at, **which), sampled(at + 7_000, bytes_in=number * 10**7, **which)]
    log += [disconnected(at + number * 61_001, **which)]
    log += [event("number.acquired", at, project="acme", number=f"+{number % 7}")]
cells = usage(facts_of(map(parsed, log)), METERS, times[-1])
digest.update(repr(sorted(cells.items())).encode())
print(digest.hexdigest(), time.strftime("%z", time.localtime(times[0] // 1000)))
"""
_ZONES: Final = {"UTC": "+0000", "America/New_York": "-0500", "Asia/Kolkata": "+0530", "Australia/Lord_Howe": "+1100"}


def _digest(zone: str) -> tuple[str, str]:
    """Return the digest as a process in that zone works it out, and the offset that it believes in."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "pipeline" / "lib")))
    environment = os.environ | {"TZ": zone, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True, env=environment, cwd=ROOT
    )
    digest, offset = done.stdout.split()
    return digest, offset


def test_a_process_in_any_time_zone_has_the_same_bill() -> None:
    """Offsets of hours, of half hours, and clocks that are put on by half an hour."""
    assert Path("/usr/share/zoneinfo/Asia/Kolkata").exists(), "without the time zone database this would show nothing"
    found = {zone: _digest(zone) for zone in _ZONES}
    assert {zone: offset for zone, (_, offset) in found.items()} == _ZONES
    assert len({digest for digest, _ in found.values()}) == 1
