"""Whose discrete usage it is: increments by team, key, model or endpoint, from the store. Blocking."""

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

from pipeline.metering.units import MS_PER_HOUR, NEVER_MS, hour_of
from pipeline.rows import UsageQuery, timestamp

if TYPE_CHECKING:
    from pipeline.clickhouse import Store

By = Literal["team", "key", "model", "endpoint"]

_ATTRIBUTED: Final = """
SELECT
    project, meter,
    CASE {by:String} WHEN 'team' THEN team WHEN 'key' THEN key WHEN 'model' THEN model ELSE endpoint END AS ascribed_to,
    sum(increments), uniqExact(source, id)
FROM attributed_usage(
    as_of = {as_of:DateTime64(3, 'UTC')}, from = {from:DateTime64(3, 'UTC')}, to = {to:DateTime64(3, 'UTC')},
    project = {project:String})
WHERE {meter:String} = '' OR meter = {meter:String}
GROUP BY project, meter, ascribed_to
ORDER BY project, meter, ascribed_to
"""


class Attributed(NamedTuple):
    """Usage of one project and meter that is ascribed to one team (key, model, endpoint); '' is ascribed to none."""

    project: str
    meter: str
    ascribed_to: str
    increments: int
    events: int


def attributed(store: "Store", by: By, query: UsageQuery) -> list[Attributed]:
    """Return discrete usage by whom it is ascribed to: together it is the usage of these hours (R14).

    Raises StoreUnavailable or StoreError.
    """
    assert by in get_args(By)
    to_ms = NEVER_MS if query.to_ms is None else hour_of(query.to_ms - 1) + MS_PER_HOUR
    rows = store.query(
        _ATTRIBUTED,
        by=by,
        as_of=timestamp(query.as_of_ms),
        **{"from": timestamp(query.from_ms), "to": timestamp(to_ms)},
        project=query.project or "",
        meter=query.meter or "",
    )
    return [Attributed(*row) for row in rows]
