"""The laws of rollups: revisions that add up, one content each, and each what the facts give. Pure."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final, NamedTuple

from pipeline.audit.laws import Checked, Difference, Law, ProjectHour, of_cell
from pipeline.metering.meters import Meters
from pipeline.metering.rollup import Rollup, quantities
from pipeline.metering.usage import CellKey, Usage

#: What is said of a cell that is not there.
NOTHING: Final = Usage(0, 0, 0)


class Chain(NamedTuple):
    """The revisions of one cell: how many there are, the highest, the sum of deltas and the newest increments."""

    project: str
    meter: str
    hour_ms: int
    revisions: int
    highest: int
    deltas: int
    increments: int


class StoredRollup(NamedTuple):
    """A rollup as it lies in the store, with the columns that follow from the others."""

    rollup: Rollup
    id: str
    status: str
    quantity: Decimal
    quantity_open: Decimal
    delta: Decimal


def derived_columns(stored: Iterable[StoredRollup], meters: Meters) -> Iterable[Difference]:
    """C4: id, status and quantities of a rollup follow from the rest of it, to the last digit (R17)."""
    for row in stored:
        rollup = row.rollup
        if rollup.meter not in meters:
            continue  # it was emitted with a table of meters that had it
        expected = (rollup.id, rollup.status, *quantities(rollup, meters))
        for name, found, due in zip(row._fields[1:], row[1:], expected, strict=True):
            if found != due:
                detail = f"revision {rollup.revision} says {name} {found}, its increments give {due}"
                yield of_cell(Law.ROLLUPS, rollup.key, detail, fact=name, holds=frozenset({_hour(rollup.key)}))


def stale_cells(
    newest: Mapping[CellKey, Rollup], current: Mapping[CellKey, Usage], from_ms: int, until_ms: int
) -> list[CellKey]:
    """C4: cells of hours in [from_ms, until_ms) whose newest revision is not what the facts give."""
    return [
        key
        for key in sorted(newest.keys() | current.keys())
        if from_ms <= key[2] < until_ms and current.get(key, NOTHING) != told(newest.get(key))
    ]


def told(rollup: Rollup | None) -> Usage:
    """Return what a revision says; nothing where there is none."""
    return NOTHING if rollup is None else Usage(rollup.increments, rollup.increments_open, rollup.sessions)


def stale(key: CellKey, rollup: Rollup | None, current: Usage | None) -> Difference:
    """C4: say how a cell's newest revision differs from its recomputation; holds nothing, emission mends it."""
    said = "nothing was emitted" if rollup is None else f"revision {rollup.revision} says {_counts(told(rollup))}"
    return of_cell(Law.ROLLUPS, key, f"{said}; the facts give {_counts(current or NOTHING)}")


def deltas(chains: Iterable[Chain], checked: int) -> Checked:
    """C5: the revisions of a cell are 1, 2, 3 ..., and their deltas add up to the newest (R17)."""
    result = Checked(Law.DELTAS, checked)
    for chain in chains:
        key = (chain.project, chain.meter, chain.hour_ms)
        if chain.revisions != chain.highest:
            detail = f"the highest revision is {chain.highest}, but there are {chain.revisions}"
        else:
            detail = f"deltas add up to {chain.deltas} increments, revision {chain.highest} says {chain.increments}"
        result.differences.append(of_cell(Law.DELTAS, key, detail, holds=frozenset({_hour(key)})))
    return result


def uniqueness(doubled: Iterable[tuple[str, str, int, int, int]], checked: int) -> Checked:
    """C10: one content per project, meter, hour and revision (R19); takes those with several, and how many."""
    result = Checked(Law.UNIQUENESS, checked)
    for project, meter, hour_ms, revision, contents in doubled:
        key = (project, meter, hour_ms)
        detail = f"revision {revision} is there with {contents} different contents"
        result.differences.append(of_cell(Law.UNIQUENESS, key, detail, holds=frozenset({_hour(key)})))
    return result


def _hour(key: CellKey) -> ProjectHour:
    return key[0], key[2]


def _counts(usage: Usage) -> str:
    return f"{usage.increments} increments ({usage.increments_open} open) of {usage.sessions} sessions"
