"""Scenes of what LiveKit servers really send, and the minutes that they bill.

Each scene goes from bodies through the adapter to the core, is held against the independent oracle, and is tried
in other orders and with repetitions (R10). All is on one day; minutes are of the whole call unless said otherwise.
"""

import json
from collections.abc import Iterable
from random import Random
from typing import Any, Final

from pipeline.livekit.webhooks import DEFAULT, Policy, canonical
from pipeline.metering.session import Facts
from pipeline.metering.units import NEVER_MS
from pipeline.metering.usage import usage
from tests.livekit_server import PLANTED
from tests.metering.builders import METERS, Document, clock, facts_of, parsed, timelines
from tests.oracle import oracle, oracle_verdicts

#: Ten days later: what has not ended by then never will.
_LONG_AFTER: Final = "240:00:00"
_ORDERS: Final = 20


def _documents(bodies: Iterable[bytes], policy: Policy = DEFAULT) -> list[Document]:
    """Return the canonical events of webhook bodies."""
    return [document for body in bodies for document in canonical(json.loads(body), "acme", policy=policy)]


def _facts(bodies: Iterable[bytes], policy: Policy) -> Facts:
    return facts_of(map(parsed, _documents(bodies, policy)))


def minutes_of(bodies: list[bytes], as_of: str = _LONG_AFTER, policy: Policy = DEFAULT) -> dict[str, int]:
    """Return the minutes by meter; core and oracle have to agree on them and on every start, end and flag."""
    documents, facts, as_of_ms = _documents(bodies, policy), _facts(bodies, policy), clock(as_of)
    assert PLANTED not in json.dumps(documents)
    cells = usage(facts, METERS, as_of_ms)
    assert cells == oracle(documents, as_of_ms)
    assert _verdicts(documents, as_of_ms) == oracle_verdicts(documents, as_of_ms)
    _assert_that_order_and_repetition_change_nothing(bodies, facts, policy)
    minutes: dict[str, int] = {}
    for (_, meter, _), cell in cells.items():
        minutes[meter] = minutes.get(meter, 0) + cell.increments
    return minutes


def _verdicts(documents: list[Document], as_of_ms: int) -> dict[Any, Any]:
    """Return the core's timelines as the oracle says them: None for an end that is not there."""
    lines = timelines([parsed(document) for document in documents], as_of_ms)
    return {
        key: line and (line[0], None if line.ended_at_ms == NEVER_MS else line.ended_at_ms, *line[2:])
        for key, line in lines.items()
    }


def _assert_that_order_and_repetition_change_nothing(bodies: list[bytes], facts: Facts, policy: Policy) -> None:
    """R10: webhooks come late, twice, and past each other."""
    chance = Random(len(bodies))  # noqa: S311 - the same orders in every run
    for _ in range(_ORDERS):
        order = bodies + chance.choices(bodies, k=chance.randrange(len(bodies)))
        chance.shuffle(order)
        assert _facts(order, policy) == facts
