"""Random logs: few projects, rooms, sessions and servers, so that ids are reused and events collide.

Where a law is tried on more examples than _POOL_FROM, what they are made of is made once and drawn from a pool:
making it anew is nine tenths of their time. Such a failing log is printed as it is, and not shrunk.
"""

from random import Random
from typing import Final, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.metering.meters import KINDS
from tests.metering.builders import Document, clock, event, rfc3339

_POOL_FROM: Final = 5_000
_POOL_SIZE: Final = 20_000
_T = TypeVar("_T")

_BEGIN_MS: Final = clock("13:30:00")
_HOUR_MS: Final = 3_600_000


def pooled(made: st.SearchStrategy[_T]) -> st.SearchStrategy[_T]:
    """Return the strategy, or where there are many examples one that draws from what it made once."""
    return st.sampled_from(_pool(made)) if settings().max_examples > _POOL_FROM else made


def _pool(made: st.SearchStrategy[_T]) -> list[_T]:
    pool: list[_T] = []

    @settings(max_examples=_POOL_SIZE, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(made)
    def fill(one: _T) -> None:
        pool.append(one)

    fill()
    return pool


#: Differences that lie on, just before and just after the edges of minutes and hours.
_EDGES_MS: Final = [edge + by for edge in (0, 60_000, 600_000, 1_800_000, 5_400_000) for by in (-1, 0, 1)]

times_ms = st.one_of(
    st.sampled_from(_EDGES_MS).map(lambda edge_ms: _BEGIN_MS + edge_ms),
    st.integers(_BEGIN_MS, _BEGIN_MS + 3 * _HOUR_MS),
)
orphan_afters_ms = st.sampled_from([600_000, _HOUR_MS, 24 * _HOUR_MS])

_sources = st.sampled_from(["sfu-1", "sfu-2"])
_room = {
    "project": st.sampled_from(["acme", "acme", "acme", "globex"]),
    "room": st.sampled_from(["RM_1", "RM_1", "RM_2"]),
}
_session = _room | {"session": st.sampled_from(["PA_1", "PA_2"])}
_maybe_kind = {"kind": st.sampled_from(["", "agent", "sip"])}
_number = {"number": st.sampled_from(["", "+15550100"])}
_maybe_times = st.none() | times_ms.map(rfc3339)
#: Some of which only the sum of both begins another increment.
_bytes = st.none() | st.sampled_from([0, 1, 9_999_999, 10_000_000, 10_000_001, 123_456_789]) | st.integers(0, 10**9)
_counters = dict.fromkeys(("bytes_in", "bytes_out"), _bytes)
_labels = {name: st.sampled_from(["", "a", "b"]) for name in ("agent", "identity", "region")}


#: Quantities on and beside the edges of increments.
_quantities = st.sampled_from([0, 1, 999, 1_000, 1_001, 60_000, 60_001]) | st.integers(0, 10**6)
#: The start of a year, of a February, of its leap day and of the March after it; on them and beside them.
_MONTH_EDGES_MS: Final = [1_704_067_200_000 + day * 86_400_000 for day in (0, 31, 59, 60)]
month_times_ms = st.builds(
    int.__add__, st.sampled_from(_MONTH_EDGES_MS), st.sampled_from([-1, 0, 1, 3_599_999, 3_600_000])
)


moments_ms = st.one_of(times_ms, st.integers(_BEGIN_MS - _HOUR_MS, _BEGIN_MS + 40 * _HOUR_MS))


def _events(event_type: str, **data: st.SearchStrategy[object]) -> st.SearchStrategy[Document]:
    return st.builds(event, st.just(event_type), times_ms, source=_sources, **data)


_connects = _events("session.connected", **_session, kind=st.sampled_from(sorted(KINDS)), **_number, **_labels)
_disconnects = _events(
    "session.disconnected", **_session, **_maybe_kind, **_number, **_counters, connected_at=_maybe_times
)


def _is_possible(document: Document) -> bool:
    """An amendment voids or sets times."""
    started, ended, is_void = (document["data"].get(name) for name in ("started_at", "ended_at", "void"))
    return not (is_void and (started or ended))


_amendments = _events(
    "session.amended",
    **_session,
    epoch=st.integers(1, 3),
    void=st.booleans(),
    started_at=_maybe_times,
    ended_at=_maybe_times,
    actor=st.sampled_from(["jo", "kim"]),
    reason=st.just("ticket 4711"),
).filter(_is_possible)

_attribution = {name: st.sampled_from(["", "a", "b"]) for name in ("model", "endpoint", "team", "key", "status")}
_usage = st.builds(
    lambda document, name: document | {"id": name},
    _events(
        "usage.recorded",
        project=_room["project"],
        meter=st.sampled_from(["stt_seconds", "stt_seconds", "llm_input_tokens"]),
        quantity=_quantities,
        room=st.sampled_from(["", "RM_1"]),
        session=st.sampled_from(["", "PA_1"]),
        latency_ms=st.none() | st.integers(0, 9),
        **_attribution,
    ),
    st.sampled_from(["EV_1", "EV_2"]),
)


def _moves(times: st.SearchStrategy[int]) -> st.SearchStrategy[Document]:
    """Return acquires and releases of two numbers by two projects."""
    types = st.sampled_from(["number.acquired", "number.acquired", "number.released"])
    return st.builds(event, types, times, project=_room["project"], number=st.sampled_from(["+1", "+2"]))


#: Any event in which the core has an interest. Connects and disconnects come twice as often as the others.
documents = st.one_of(
    _connects,
    _connects,
    _disconnects,
    _disconnects,
    _events("session.aborted", **_session, **_maybe_kind),
    _events("session.sampled", **_session, **_maybe_kind, **_counters, connected_at=_maybe_times),
    _events("session.absent", **_session),
    _amendments,
    _events("room.started", **_room, started_at=_maybe_times),
    _events("room.ended", **_room),
    _events("server.restarted"),
    _events("job.dispatched", **_room, job=st.just("AJ_1")),
    _usage,
    _moves(times_ms),
)


def _logs(events: st.SearchStrategy[Document], *sizes: range) -> st.SearchStrategy[list[Document]]:
    """Return lists of events with so many in them, each range of sizes as often as the others."""
    if settings().max_examples <= _POOL_FROM:
        return st.one_of([st.lists(events, min_size=size.start, max_size=size.stop - 1) for size in sizes])
    pool = _pool(events)

    def log(seed: int) -> list[Document]:
        random = Random(seed)  # noqa: S311 - an example, not a secret
        return random.choices(pool, k=random.choice(random.choice(sizes)))

    return st.integers(0, 2**64).map(log)


#: Small logs, which shrink well, and large ones, in which every session and room is told of many times.
logs = _logs(documents, range(9), range(15, 41))
#: Numbers that are acquired and released around the edges of months, some of them years apart.
rental_logs = _logs(_moves(month_times_ms | times_ms), range(13))
documents = pooled(documents)
