"""What can go wrong in the simulation, which of it goes wrong under a seed, and how often.

Every seed draws its own options: some faults are absent, some rare, some frequent. A run in which everything fails all
the time would never get far enough to show what a single fault does.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from pipeline.simulator import Scenario


class Fault(StrEnum):
    """Every kind of fault, counted where it happens. A range of seeds has to show every one of them."""

    DUPLICATE = "event sent twice"
    LATE = "event more than an hour late"
    DISORDER = "event behind a later one of its room"
    SKEW = "producer's clock off"
    LOST = "event never sent"
    POISON = "input that is no event"
    TOO_OLD = "event beyond the correction window"
    IN_THE_FUTURE = "event ahead of the broker"
    UNKNOWN_TYPE = "event of an unknown type"
    PARTITIONS_ADDED = "partitions added"
    CHANGELOG_LOST = "changelog lost"
    CHANGELOG_COMPACTED = "changelog compacted"
    BROKER_AWAY = "broker away"
    SENT_AGAIN = "acknowledgement lost, record sent again"
    REBALANCE = "rebalance"
    LEAVE = "worker left and another came"
    PAUSED = "worker paused"
    EXPELLED = "worker declared dead while it lived"
    HANDED_OVER_UNFINISHED = "partitions given up with the batch in hand"
    STALE_WRITE = "rows written by a worker that owns nothing any more"
    STALE_CHANGELOG = "changelog written by a worker that owns nothing any more"
    STALE_COMMIT = "commit by a worker that owns nothing any more"
    WRITE_AFTER_DEATH = "request took effect after its sender died"
    REFUSED = "insert refused"
    SOME_TABLES = "batch stored in some tables only"
    SOME_ROWS = "insert stored in part"
    REPLY_LOST = "insert stored, reply lost"
    STORE_ERROR = "insert refused for good"
    STORE_AWAY = "store away"
    SLOW = "answer fifty times slower"
    STALE_READ = "store answered with an older state"
    EMITTER_PAUSED = "emitter paused"
    LONG_SILENCE = "a record after weeks, looked at before it was processed"
    OUTRUN = "proposal lost against another emitter's"
    API_AWAY = "media server did not answer"
    API_REFUSED = "media server refused"
    API_EMPTY = "media server forgot everybody"
    API_PARTIAL = "media server silent about a room"
    API_STALE = "media server answered with an older list"
    RECONCILER_KILLED = "reconciler killed"


#: Every point at which a worker is killed: before it, and after what it did took effect.
WORKER_POINTS: Final = tuple(
    f"worker killed: {point}"
    for point in (
        "poll", "write", "insert session_facts", "insert session_facts answered", "insert room_facts",
        "insert room_facts answered", "insert counter_facts", "insert counter_facts answered",
        "insert discrete_facts", "insert discrete_facts answered", "insert number_facts",
        "insert number_facts answered", "insert server_facts", "insert server_facts answered", "insert events",
        "insert events answered", "insert progress", "insert progress answered", "write answered", "bury",
        "bury answered", "changelog", "changelog answered", "commit", "commit answered", "recover",
        "open_rooms", "open_rooms answered",
    )
)  # fmt: skip
#: And an emitter.
EMITTER_POINTS: Final = tuple(
    f"emitter killed: {point}"
    for point in (
        "end offsets", "end offsets answered", "progress", "progress answered", "latest_rollups",
        "latest_rollups answered", "read decisions", "read decisions answered", "changes", "changes answered", "usage",
        "usage answered", "propose", "propose answered", "publish", "publish answered", "flush", "insert_rollups",
        "insert rollups", "insert rollups answered", "insert_rollups answered", "held", "held answered",
    )
)  # fmt: skip
#: What a range of seeds has to show.
EVERY_FAULT: Final = (*map(str, Fault), *WORKER_POINTS, *EMITTER_POINTS)


@dataclass(frozen=True, slots=True)
class Options:
    """How one seed goes wrong. Rates are chances of 1 per occasion; times are seconds, unless they say ms."""

    scenario: Scenario
    workers: int
    emitters: int
    is_reconciled: bool
    batch_events: int
    orphan_after_ms: int
    correction_window_ms: int
    evict_after_ms: int
    latency_s: float
    linger_s: float
    commit_s: float
    emit_interval_s: float
    trouble_every_s: float
    worker_kill: float
    kill_at: tuple[str, str]
    emitter_kill: float
    pause: float
    store_refused: float
    store_half: float
    store_reply_lost: float
    store_error: float
    slow: float
    stale_read: float
    sent_again: float
    lost: float
    poison: float
    api_wrong: float
    silence_days: int
    troubles: tuple[str, ...]


#: How likely whoever comes to a seed's favourite points dies there.
KILL_AT_POINT: Final = 0.2
#: What happens to the whole installation now and then.
TROUBLES: Final = (
    "kill worker", "kill emitter", "kill reconciler", "pause worker", "pause emitter", "rebalance", "leave",
    "store away", "broker away", "add partitions", "lose changelog", "compact changelog",
)  # fmt: skip


def draw_options(chance: random.Random, seed: int, start_ms: int) -> Options:
    """Draw one seed's options."""

    def often(*rates: float) -> float:
        return chance.choice((0.0, *rates))

    scenario = Scenario(
        start_ms=start_ms,
        end_ms=start_ms + chance.randint(30, 150) * MS_PER_MINUTE,
        sessions=chance.randint(6, 24),
        seed=seed,
        projects=("acme", "globex"),
        reconnect=often(0.2),
        crash=often(0.2, 0.5),
        duplicate=often(0.1, 0.5),
        disorder_ms=chance.choice((0, MS_PER_MINUTE, 20 * MS_PER_MINUTE)),
        late=often(0.0, 0.05),
        abort=often(0.1),
        lost_connect=often(0.2),
        reused_rooms=often(0.3),
        skew_ms=chance.choice((0, 0, 4 * MS_PER_MINUTE)),
        sample_every_ms=chance.choice((0, 7 * MS_PER_MINUTE)),
        usage_every_ms=0 if seed % 5 else 5 * MS_PER_MINUTE,
        numbers=0 if seed % 5 else 12,
    )
    silence_days = chance.choice((0, 0, 25))
    return Options(
        scenario=scenario,
        workers=chance.randint(1, 4),
        emitters=chance.randint(1, 2),
        is_reconciled=chance.random() < 0.5,
        batch_events=chance.choice((1, 10, 30_000)),
        orphan_after_ms=chance.choice((MS_PER_HOUR, 3 * MS_PER_HOUR, MS_PER_DAY)),
        # A window that is over within the silence, or the silence would show nothing.
        correction_window_ms=3 * MS_PER_HOUR if silence_days else chance.choice((3 * MS_PER_HOUR, 60 * MS_PER_DAY)),
        evict_after_ms=chance.choice((5 * MS_PER_MINUTE, 6 * MS_PER_HOUR)),
        latency_s=chance.choice((0.05, 1.0, 15.0)),
        linger_s=chance.choice((20.0, 120.0, 600.0)),
        commit_s=chance.choice((1.0, 60.0)),
        emit_interval_s=chance.choice((300.0, 1_200.0)) if scenario.late == 0 else 2_400.0,
        trouble_every_s=chance.choice((120.0, 600.0, 3_600.0)) if scenario.late == 0 else 3_600.0,
        worker_kill=often(0.003, 0.02),
        kill_at=(chance.choice(WORKER_POINTS), chance.choice(EMITTER_POINTS)),
        emitter_kill=often(0.01, 0.04),
        pause=often(0.003, 0.02),
        store_refused=often(0.02, 0.1),
        store_half=often(0.02, 0.2),
        store_reply_lost=often(0.02, 0.1),
        store_error=often(0.0, 0.01),
        slow=often(0.02),
        stale_read=often(0.5),
        sent_again=often(0.05),
        lost=often(0.0, 0.03),
        poison=often(0.05),
        api_wrong=often(0.1, 0.5),
        silence_days=silence_days,
        troubles=tuple(trouble for trouble in TROUBLES if chance.random() < 0.5),
    )
