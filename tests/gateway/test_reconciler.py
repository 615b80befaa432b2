"""Passes of reconciliation in a row: what they leave to each other, what they record, and what is billed in the end."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clickhouse import StoreUnavailable
from pipeline.embedded import now_ms
from pipeline.gateway.projects import Project
from pipeline.livekit.api import ApiAway, ApiRefused, Limits, LivekitApi
from pipeline.livekit.reconcile import Document, ListedRoom, OpenSession, Run
from pipeline.livekit.reconciler import Outlets, Reconciler
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from pipeline.metrics import Metrics
from tests.faults.livekit_api import FakeLivekit
from tests.gateway.ledger import JOINED, KEY, WINDOW_MS, Ledger, live, silent, there
from tests.metering.builders import clock, disconnected

Answer = list[ListedRoom] | Exception


class _Script:
    """A server that gives prepared answers, one a pass."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers: Iterator[Answer] = iter(answers)

    async def rooms(self) -> list[ListedRoom]:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


class _Bench:
    """A reconciler whose events become facts at once, a minute between passes."""

    def __init__(self, ledger: Ledger, server: Any, start: str = "14:05:00") -> None:
        self.ledger = ledger
        self.sent: list[Document] = []
        self.runs: list[Run] = []
        self.has_run = threading.Event()
        self.is_cut_off = False
        self.metrics = Metrics()
        self.now_ms = clock(start)
        self.reconciler = Reconciler(
            Project("acme", livekit_url="https://sfu.example:7880"),
            server,
            ledger,
            Outlets(self._send, self._record),
            self.metrics,
            lambda: self.now_ms,
            orphan_after_ms=MS_PER_DAY,
            correction_window_ms=WINDOW_MS,
        )

    async def _send(self, events: Sequence[Document]) -> None:
        if self.is_cut_off:
            raise ConnectionError
        self.sent += events
        self.ledger.take(events)

    def _record(self, run: Run) -> None:
        self.runs.append(run)
        self.has_run.set()

    async def passes(self, count: int) -> None:
        for _ in range(count):
            await self.reconciler.run_once()
            self.now_ms += MS_PER_MINUTE

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"roommeter_reconcile_{name}", labels)


@pytest.mark.parametrize("error", [ApiAway("HTTP 503"), ApiRefused("HTTP 401")], ids=["away", "refused"])
async def test_a_pass_without_an_answer_ends_nothing_and_is_recorded(error: Exception) -> None:
    """And the passes before it do not count any more."""
    bench = _Bench(Ledger(live()), _Script([[], error, [], []]))
    await bench.passes(3)
    assert bench.sent == []
    assert [run.outcome for run in bench.runs] == ["complete", type(error).__name__.lower()[3:], "complete"]
    assert bench.runs[1].detail == str(error)
    await bench.passes(1)
    assert [event["type"] for event in bench.sent] == ["session.absent"]


async def test_what_could_not_be_sent_is_found_again() -> None:
    """The pass that failed is forgotten: two whole passes have to follow (R22)."""
    bench = _Bench(Ledger(live()), _Script([[]] * 5))
    await bench.passes(1)
    bench.is_cut_off = True
    with pytest.raises(ConnectionError):
        await bench.passes(1)
    bench.is_cut_off = False
    await bench.passes(1)
    assert bench.sent == []
    await bench.passes(1)
    assert len(bench.sent) == 1


async def test_a_pass_is_counted_and_recorded() -> None:
    """Operators see that the server is asked, what it says, and when it last did."""
    bench = _Bench(Ledger(live(), live("PA_2")), _Script([[there("PA_1", "PA_3")]] * 2))
    await bench.passes(2)
    first, second = bench.runs
    assert (first.source, first.sessions_open, first.rooms) == ("reconcile/sfu.example:7880", 2, 1)
    assert (first.present, first.missing, first.absent, first.opened) == (1, 1, 0, 1)
    assert (second.present, second.missing, second.absent, second.opened) == (2, 0, 1, 0)
    assert bench.metric("passes_total", answer="complete") == 2
    assert bench.metric("sessions_total", finding="absent") == 1
    assert bench.metric("last_success_seconds") == clock("14:06:00") / 1000


async def test_a_server_that_gave_no_end_is_billed_to_the_last_pass_that_saw_the_session() -> None:
    """From the API to the timeline: seen until 14:07, so its end is presumed there (R9)."""
    async with FakeLivekit() as server:
        server.join("support", "PA_1", JOINED)
        ledger = Ledger(live(room="RM_support"))
        # The fake's verifier looks at the real clock; the passes have one of their own.
        async with LivekitApi(server.project(), now_ms, Limits(pause_s=0)) as client:
            bench = _Bench(ledger, client)
            await bench.passes(3)
            server.close_room("support")
            await bench.passes(2)
    times = ledger.timeline(("acme", "RM_support"), "PA_1", bench.now_ms)
    assert (times.ended_at_ms, times.end_presumed) == (clock("14:07:00"), True)


async def test_a_call_of_which_both_webhooks_were_lost_is_billed_for_what_was_seen() -> None:
    """Opened at its join, ended at its last sign of life, and flagged as both (R3, R9)."""
    bench = _Bench(Ledger(), _Script([[there("PA_1")], [there("PA_1")], [], []]))
    await bench.passes(4)
    times = bench.ledger.timeline(KEY, "PA_1", bench.now_ms)
    assert (times.started_at_ms, times.ended_at_ms) == (JOINED, clock("14:06:00"))
    assert times.start_inferred
    assert times.end_presumed


async def test_a_real_end_that_comes_later_replaces_the_presumed_one() -> None:
    """R9: earlier or later."""
    bench = _Bench(Ledger(live()), _Script([[], []]))
    await bench.passes(2)
    assert bench.ledger.timeline(KEY, "PA_1", bench.now_ms).ended_at_ms == JOINED
    bench.ledger.take([disconnected("14:06:30")])
    times = bench.ledger.timeline(KEY, "PA_1", bench.now_ms)
    assert (times.ended_at_ms, times.end_presumed) == (clock("14:06:30"), False)


async def test_a_call_of_three_days_does_not_become_an_orphan() -> None:
    """Nothing but the passes is heard of it."""
    bench = _Bench(Ledger(live()), _Script([[there("PA_1")]] * 72))
    for _ in range(72):
        await bench.passes(1)
        bench.now_ms += MS_PER_HOUR - MS_PER_MINUTE
    assert bench.ledger.timeline(KEY, "PA_1", bench.now_ms).is_open()


class _LostOnce(Ledger):
    """A store that is away when it is asked for the first time."""

    is_lost = True

    def open_sessions(self, project: str, as_of_ms: int, orphan_after_ms: int) -> list[OpenSession]:
        if self.is_lost:
            self.is_lost = False
            raise StoreUnavailable("gone for lunch")
        return super().open_sessions(project, as_of_ms, orphan_after_ms)


async def test_the_timer_waits_out_what_passes_by_itself() -> None:
    """R22: a store that is away costs passes, not the process."""
    bench = _Bench(_LostOnce(live()), _Script([[]] * 100))
    timer = asyncio.create_task(bench.reconciler.run_forever(1, (StoreUnavailable,)))
    assert await asyncio.to_thread(bench.has_run.wait, 10)
    timer.cancel()
    assert bench.runs[0].outcome == "complete"


_SESSIONS = [("RM_1", "PA_1"), ("RM_1", "PA_2"), ("RM_2", "PA_3")]


@st.composite
def _answers(draw: st.DrawFn) -> Answer:
    """An answer of a server with three sessions in two rooms: any of them there, rooms silent or gone, or an error."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from([ApiAway("HTTP 503"), ApiRefused("HTTP 401")]))
    rooms = []
    for room in draw(st.sets(st.sampled_from(["RM_1", "RM_2"]))):
        sessions = [session for home, session in _SESSIONS if home == room]
        is_silent = draw(st.integers(0, 3)) == 0
        present = draw(st.sets(st.sampled_from(sessions)))
        rooms.append(
            silent(room, f"name of {room}") if is_silent else there(*present, room=room, name=f"name of {room}")
        )
    return rooms


def _lacks(answer: Answer, room: str, session: str) -> bool:
    """Tell whether an answer shows that a session is not there: an answer, about its room, without it."""
    return not isinstance(answer, Exception) and not any(
        (found.room == room and found.participants is None)
        or session in [participant.session for participant in found.participants or ()]
        for found in answer
    )


@given(answers=st.lists(_answers(), min_size=1, max_size=8))
def test_only_what_two_answers_in_a_row_lack_is_absent(answers: list[Answer]) -> None:
    """Whatever a server answers, fails to answer or answers in part."""
    bench = _Bench(Ledger(*(live(session, room=room) for room, session in _SESSIONS)), _Script(answers))

    async def run() -> None:
        for number in range(len(answers)):
            await bench.passes(1)
            for event in bench.sent:
                if event["type"] == "session.absent":
                    room, session = event["data"]["room"], event["data"]["session"]
                    assert number > 0
                    assert _lacks(answers[number], room, session)
                    assert _lacks(answers[number - 1], room, session)
            bench.sent.clear()

    asyncio.run(run())


@given(answers=st.lists(_answers(), min_size=1, max_size=8))
def test_no_session_is_billed_beyond_its_last_sign_of_life_or_ended_while_it_is_there(answers: list[Answer]) -> None:
    """The bill follows the answers: open while last seen, else ended where it was last seen (R9)."""
    ledger = Ledger(*(live(session, room=room) for room, session in _SESSIONS))
    bench = _Bench(ledger, _Script(answers))
    asyncio.run(bench.passes(len(answers)))
    for room, session in _SESSIONS:
        seen = [
            clock("14:05:00") + number * MS_PER_MINUTE
            for number, answer in enumerate(answers)
            if not isinstance(answer, Exception)
            and any(session in [person.session for person in found.participants or ()] for found in answer)
        ]
        times = ledger.timeline(("acme", room), session, bench.now_ms)
        last_seen_ms = max(seen, default=JOINED)
        assert times.is_open() or times.ended_at_ms == last_seen_ms
        if last_seen_ms == bench.now_ms - MS_PER_MINUTE:
            assert times.is_open()
