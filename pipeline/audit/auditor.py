"""The audit: reads a store, tries every law on it, and tells what differs; once, or again and again. Blocking.

A running system changes under the reader. So what differs at the first look is looked at again, alone: a room whose
events were on their way, or an hour that the emitter was about to revise, has come right by then.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final, NamedTuple

from pipeline.audit import laws as audit
from pipeline.audit import rollups as audit_rollups
from pipeline.audit.bill_store import BillStore, Window
from pipeline.audit.canary import CANARY, canary_answers, compare_canary
from pipeline.audit.facts import Scope
from pipeline.audit.laws import Checked, Law, ProjectHour, Stage
from pipeline.audit.quantities import check_quantities
from pipeline.audit.recompute import Recomputation, floor_ms
from pipeline.audit.store import AuditStore
from pipeline.clickhouse import Store
from pipeline.metering.meters import Meters
from pipeline.metering.rollup import Rollup, complete_until_ms
from pipeline.metering.units import MS_PER_HOUR, hour_of
from pipeline.metering.usage import CellKey, Usage
from pipeline.rows import SessionQuery
from pipeline.settings import Settings
from pipeline.topics import topics

#: Rollups that are read at once; of more, one project after the other is.
_MOST_ROLLUPS: Final = 300_000
#: Most moments of emission that are gone back to; cells of older ones are judged as of the newest.
_MOST_MOMENTS: Final = 200
#: How many sessions of the canary are read.
_MOST_CANARIES: Final = 100_000


class Report(NamedTuple):
    """What one audit found, law by law, and what it looked at."""

    window: Window
    as_of_ms: int
    laws: tuple[Checked, ...]

    @property
    def holds(self) -> dict[ProjectHour, str]:
        """The hours whose emission has to wait, each with what is wrong there."""
        found: dict[ProjectHour, str] = {}
        for law in self.laws:
            for difference in law.differences:
                found |= dict.fromkeys(difference.holds, f"{law.law}: {difference.detail}")
        return found

    @property
    def is_whole(self) -> bool:
        """Whether everything was looked at."""
        return self.window.from_ms == 0 and self.window.to_ms >= self.as_of_ms and not self.window.project

    @property
    def differences(self) -> int:
        """How many things differ."""
        return sum(len(law.differences) for law in self.laws)


class Auditor:
    """Audits one store.

    `pause` waits as many ms as it is told, and may raise to end an audit that nobody wants any more; `ends` asks the
    brokers where the partitions of the lifecycle topic end.
    """

    def __init__(
        self,
        settings: Settings,
        meters: Meters,
        store: Store,
        pause: Callable[[int], None],
        ends: Callable[[], Mapping[int, int]] = dict,
    ) -> None:
        """Keep the parts; nothing is read yet."""
        self._settings = settings
        self._meters = meters
        self._store = store
        self._facts = AuditStore(store)
        self._bill = BillStore(store, settings.orphan_after_ms)
        self._pause = pause
        self._ends = ends

    def run(self, now_ms: int, from_ms: int = 0, to_ms: int | None = None, project: str = "") -> Report:
        """Try every law on hours that start in [from_ms, to_ms), of one project or of all.

        The event log is read from `from_ms` on, and for all projects: it is kept by partition. Raises
        StoreUnavailable or StoreError.
        """
        window = Window(_hour_from(from_ms), _hour_from(now_ms if to_ms is None else to_ms), project)
        ends = self._ends()  # before progress: what ended here may have been processed since
        stages = self._facts.stages(from_ms)
        scope = Scope(
            self._meters,
            now_ms,
            self._settings.orphan_after_ms,
            floor_ms(stages, from_ms, now_ms, self._settings.future_skew_ms),
            self._facts.restarts(),
        )
        facts = Recomputation(self._facts, scope, from_ms, project, self._pause).run(stages)
        check_quantities(facts, self._store, from_ms, scope.floor_ms, project, self._pause)
        laws = (
            audit.stage_balance(stages, now_ms, from_ms),
            self._continuity(stages, from_ms, now_ms),
            audit.session_hours(self._bill.hour_totals(window, now_ms), self._meters),
            self._rollups(window),
            facts,
            *self._chains(window),
            audit.orphans(self._bill.lives(window, now_ms)),
            self._watermark(stages, ends, window, now_ms),
            self._canary(window, now_ms),
        )
        return Report(window, now_ms, tuple(sorted(laws, key=lambda checked: list(Law).index(checked.law))))

    def held(self) -> frozenset[ProjectHour]:
        """Return the hours, in ms, whose emission waits."""
        return self._facts.held()

    def hold(self, report: Report, now_ms: int) -> None:
        """Hold the hours of a report on everything, and let those go in which nothing differs any more."""
        held, wanted = self._facts.held(), report.holds
        fresh = {key: detail for key, detail in wanted.items() if key not in held}
        released = sorted(held - wanted.keys()) if report.is_whole else []
        self._facts.hold(fresh, released, now_ms)

    def _continuity(self, stages: list[Stage], from_ms: int, now_ms: int) -> Checked:
        """Look for holes only where offsets are missing: finding them costs more than counting."""
        short = [stage for stage in stages if sum(stage.kept.values()) < stage.last_offset + 1 - stage.first_offset]
        holes = [hole for stage in short for hole in self._facts.holes(stage, from_ms)]
        return audit.offset_continuity(stages, holes, now_ms, is_whole=from_ms == 0)

    def _chains(self, window: Window) -> tuple[Checked, Checked]:
        emitted = self._bill.emitted(window)
        return (
            audit_rollups.deltas(self._bill.broken_chains(window), emitted.cells),
            audit_rollups.uniqueness(self._bill.doubled(window), emitted.rollups),
        )

    def _rollups(self, window: Window) -> Checked:
        """C4: every newest revision is what the facts give; those that are not, are looked at again a while later."""
        result = Checked(Law.ROLLUPS)
        emitted = self._bill.emitted(window)
        if not emitted.rollups:
            result.notes.append("nothing was emitted")
            return result
        parts = [window]
        if emitted.rollups > _MOST_ROLLUPS:
            parts = [window._replace(project=name) for name in emitted.projects]
        for part in parts:
            suspects = self._stale(part, emitted.as_of_ms, result)
            if suspects:
                self._pause(3 * self._settings.emit_interval_ms)
                again = self._stale(part, emitted.as_of_ms, Checked(Law.ROLLUPS))
                # Another revision by now: the emitter is at it.
                same = [key for key in suspects if key in again and again[key][0] == suspects[key][0]]
                result.differences += [audit_rollups.stale(key, *again[key]) for key in same]
        return result

    def _stale(
        self, window: Window, as_of_ms: int, result: Checked
    ) -> dict[CellKey, tuple[Rollup | None, Usage | None]]:
        """Return the cells whose newest revision differs from what the facts give as of its own moment (R20).

        First as of the newest moment for all at once: no complete hour depends on the moment, but for orphans.
        """
        stored = self._bill.rollups(window)
        newest = {row.rollup.key: row.rollup for row in stored}  # in order of revisions: the last one stays
        result.differences += audit_rollups.derived_columns(stored, self._meters)
        result.checked += len(newest)
        until_ms = min(window.to_ms, complete_until_ms(as_of_ms, self._settings.grace_period_ms))
        from_ms = max(window.from_ms, hour_of(max(0, as_of_ms - self._settings.correction_window_ms)))
        current = self._bill.usage(window._replace(from_ms=from_ms, to_ms=max(from_ms, until_ms)), as_of_ms)
        suspects: dict[CellKey, tuple[Rollup | None, Usage | None]] = {}
        by_moment: defaultdict[int, list[CellKey]] = defaultdict(list)
        for key in audit_rollups.stale_cells(newest, current, from_ms, until_ms):
            suspects[key] = (newest.get(key), current.get(key))
            if key in newest:
                by_moment[newest[key].as_of_ms].append(key)
        for moment_ms, keys in islice(sorted(by_moment.items(), reverse=True), _MOST_MOMENTS):
            hours_ms = [hour_ms for _, _, hour_ms in keys]
            span = window._replace(from_ms=min(hours_ms), to_ms=max(hours_ms) + MS_PER_HOUR)
            then = self._bill.usage(span, moment_ms)
            for key in keys:
                if then.get(key, audit_rollups.NOTHING) == audit_rollups.told(newest[key]):
                    del suspects[key]
        return suspects

    def _watermark(self, stages: list[Stage], ends: Mapping[int, int], window: Window, now_ms: int) -> Checked:
        name = topics(self._settings).lifecycle.name
        due_ms = complete_until_ms(now_ms - audit.MOST_AGE_MS, self._settings.grace_period_ms)
        emitted_ms = complete_until_ms(self._bill.emitted(window).as_of_ms, self._settings.grace_period_ms)
        overdue: dict[CellKey, Usage] = {}
        if 0 < emitted_ms < due_ms <= window.to_ms:  # where nothing was ever emitted, nobody waits for it
            overdue = self._bill.usage(window._replace(from_ms=emitted_ms, to_ms=due_ms), now_ms)
        lifecycle = [stage for stage in stages if stage.topic == name]
        return audit.watermark_age(lifecycle, ends, sorted(overdue), now_ms)

    def _canary(self, window: Window, now_ms: int) -> Checked:
        if window.project not in ("", CANARY):
            return Checked(Law.CANARY)
        query = SessionQuery(
            as_of_ms=now_ms,
            active_since_ms=window.from_ms,
            project=CANARY,
            limit=_MOST_CANARIES,
            orphan_after_ms=self._settings.orphan_after_ms,
        )
        found = {row.session: row for row in self._store.sessions(query)}
        answers = [true for true in canary_answers(found, now_ms) if true.started_at_ms >= window.from_ms]
        return compare_canary(answers, found)


def _hour_from(time_ms: int) -> int:
    """Return the start of the first hour that does not start before a moment, in ms."""
    return hour_of(time_ms + MS_PER_HOUR - 1)
