"""infra/metrics.md, made from the registry: `python -m tests.metric_guide` renews it."""

from typing import Final

from pipeline.metrics import Metrics
from tests.metering.builders import ROOT

GUIDE: Final = ROOT / "infra" / "metrics.md"
_HEAD: Final = """# Metrics

What `/metrics` of every process has, from the registry in `pipeline/metrics.py` (`python -m tests.metric_guide` makes
this page). Each process shows all of them; what it has no part in stays at 0. No label holds a project, room or
session: who and whose is asked of ClickHouse. The usual `process_*` metrics (memory, CPU, files) are there too.

Rules and alerts: `infra/prometheus/`. What an alert means and what to do: `infra/runbook.md`.

| metric | type | unit | labels | meaning | when it looks wrong |
|---|---|---|---|---|---|
"""


def guide() -> str:
    """Return the whole page."""
    rows = (
        f"| `{one.name}` | {one.type} | {one.unit} | {', '.join(one.labels)} | {one.meaning} | {one.remedy} |\n"
        for one in Metrics().guide
    )
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    GUIDE.write_text(guide())
