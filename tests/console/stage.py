"""A store with a day of calls in it, names that mean harm among them, and the console over it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import orjson
import pyarrow as pa

from pipeline.clickhouse import Store
from pipeline.console.serving import console, own_health
from pipeline.embedded import now_ms
from pipeline.gateway.projects import read_projects
from pipeline.metering.rollup import revise
from pipeline.metering.units import MS_PER_HOUR, MS_PER_MINUTE, hour_of
from pipeline.metrics import Metrics
from pipeline.replay import replay
from pipeline.rows import UsageQuery
from pipeline.settings import Settings
from pipeline.simulator import Scenario, simulate
from tests.metering.builders import METERS, ROOT, connected, disconnected, event, sampled
from tests.metering.plan_texts import flat

#: Twenty minutes past the hour before this one: the log keeps 60 days, by the real clock.
NOW_MS: Final = hour_of(now_ms()) - 40 * MS_PER_MINUTE
_EMITTED_UNTIL_MS: Final = hour_of(NOW_MS) - MS_PER_HOUR
#: What a producer may call a project, a room or a session, and what must stay text wherever it is shown.
HOSTILE: Final = (
    "<script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "../../etc/passwd",
    "..",
    "a/b?c=d&e=f#g",
    "%2e%2e%2f%3Cscript%3E",
    "{{ 7*7 }}{% raw %}",
    "a'; DROP TABLE rollups; --",
    "=cmd|' /C calc'!A0",
    "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET} 1",
    "W" * 256,
)
#: The first of these has a session of every such name.
HOSTILE_PROJECTS: Final = (HOSTILE[0], HOSTILE[2], "..", "a/b?c=d&e=f#g", "W" * 256)
TOKENS: Final = {
    "acme": "t0ken-of-acme-1234567890",
    "globex": "t0ken-of-globex-123456789",
    "jo": "t0ken-of-an-operator-12345",
}
#: A token that sends events.
SENDING: Final = "token-that-sends-1234567890"


def _documents() -> Iterator[dict[str, Any]]:
    scenario = Scenario(
        start_ms=NOW_MS - 26 * MS_PER_HOUR, end_ms=NOW_MS, sessions=400, projects=("acme", "globex"), reconnect=0.05,
        lost_connect=0.05, crash=0.02, sample_every_ms=10 * MS_PER_MINUTE, usage_every_ms=5 * MS_PER_MINUTE, numbers=2,
    )  # fmt: skip
    yield from (document for sent_ms, document in simulate(scenario).events if sent_ms <= NOW_MS)
    begun_ms = NOW_MS - 90 * MS_PER_MINUTE
    for project in HOSTILE_PROJECTS:
        for name in HOSTILE if project == HOSTILE[0] else HOSTILE[:1]:
            yield connected(begun_ms, name, project=project, room=name, identity=name, agent=name)
            yield disconnected(begun_ms + 61_000, name, project=project, room=name)
    # One that shows everything at once: over three hours, with a sign of life, and still open.
    begun_ms = NOW_MS - 170 * MS_PER_MINUTE
    yield connected(begun_ms, "PA_open", project="acme", room="RM_open", identity="jo")
    yield sampled(begun_ms + 100 * MS_PER_MINUTE, "PA_open", project="acme", room="RM_open", bytes_in=25_000_000)
    yield event("room.started", begun_ms - 1_000, project="acme", room="RM_open")
    yield disconnected(begun_ms, "PA_lost", project="acme", room="RM_lost")


def feed(store: Store) -> None:
    """Fill a store that is empty."""
    store.migrate(METERS)
    for _ in replay(map(orjson.dumps, _documents()), "file:day", store, METERS, NOW_MS, 1_000_000, 100_000):
        pass
    cells = dict(store.usage(UsageQuery(as_of_ms=_EMITTED_UNTIL_MS, to_ms=_EMITTED_UNTIL_MS)))
    store.insert_rollups(list(revise({}, cells, _EMITTED_UNTIL_MS, _EMITTED_UNTIL_MS)), METERS)
    store.insert("alerts", _alerts())


def _alerts() -> pa.Table:
    """Return alerts as the examples of the schema, newer; and one that has a name that means harm everywhere."""
    examples = orjson.loads((ROOT / "schemas" / "alert.v1.json").read_bytes())["examples"]
    rows = [one for one in examples if one["revision"] == 1]
    harm = HOSTILE[0]
    named = {"project": harm, "subject": harm, "message": f"{harm} began too much", "evidence": {harm: harm}}
    rows.append(rows[0] | named | {"id": str(uuid5(NAMESPACE_URL, harm)), "severity": "warning"})
    numbers, moment = pa.decimal128(38, 3), pa.timestamp("ms", "UTC")
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    columns |= {name: pa.array(map(Decimal, columns[name]), numbers) for name in ("observed", "expected", "cost")}
    columns["evidence"] = [orjson.dumps(one).decode() for one in columns["evidence"]]
    columns["revision"] = pa.array(columns["revision"], pa.uint32())
    columns["since"] = pa.array([NOW_MS - 15 * MS_PER_MINUTE] * len(rows), moment)
    columns["updated_at"] = pa.array([NOW_MS] * len(rows), moment)
    columns["resolved_at"] = pa.array([0] * len(rows), moment)
    return pa.table(columns)


def write_files(directory: Path) -> dict[str, Path]:
    """Write plans, limits and projects; return their settings."""
    digests = {name: sha256(token.encode()).hexdigest() for name, token in (TOKENS | {"sending": SENDING}).items()}
    files = {
        "plans_file": f"""
            [plans.p]
            title = "Ship"
            currency = "USD"
            {flat(fee="50")}
            [projects.acme]
            plans = [{{ from = 2026-09-01, plan = "p" }}]
            """,
        "limits_file": """
            [[limit]]
            project = "*"
            meter = "agent_session_minutes"
            per = "day"
            soft = "100"
            hard = "9000"
            [[limit]]
            project = "acme"
            concurrent = "participant"
            hard = "50"
            """,
        "projects_file": f"""
            [projects.acme]
            tokens = [{{ sha256 = "{digests["acme"]}", use = "console" }}, {{ sha256 = "{digests["sending"]}" }}]
            [projects.globex]
            tokens = [{{ sha256 = "{digests["globex"]}", use = "console" }}]
            [[operators]]
            name = "jo"
            sha256 = "{digests["jo"]}"
            """,
    }
    for name, text in files.items():
        (directory / f"{name}.toml").write_text(text)
        (directory / f"{name}.toml").chmod(0o600)
    return {name: directory / f"{name}.toml" for name in files}


@contextmanager
def fed_store(directory: Path) -> Iterator[Settings]:
    """Yield the settings that lead to a store with a day in it, held open meanwhile."""
    settings = Settings(store=f"chdb://{directory / 'store'}", console_port=0).model_copy(update=write_files(directory))
    with closing(Store.open(settings.store)) as store:
        feed(store)
        yield settings


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[int]:
    """Serve the console with a clock that stands still; yield its port."""
    metrics = Metrics()
    metrics.watermark_seconds.set(NOW_MS / 1000 - 4)
    metrics.audit_last_success_seconds.set(NOW_MS / 1000 - 120)
    for condition in ("broker", "clickhouse", "worker", "emitter"):
        metrics.ready.labels(condition).set(1)
    projects = read_projects(settings.projects_file, {})
    async with console(settings, METERS, projects, lambda: NOW_MS, own_health(metrics)) as port:
        yield port
