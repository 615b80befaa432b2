"""Short ways to say findings in tests."""

from typing import Any, Final

from pipeline.metering.anomaly.alert import Finding

#: A Monday, 2026-09-21T14:00:00Z.
NOON_MS: Final = 1_789_999_200_000


def finding(**changes: Any) -> Finding:
    """Return a storm of acme's, begun at NOON_MS, with some fields changed."""
    usual = Finding(
        "connection_storm",
        "acme",
        "agent_session_minutes",
        "",
        NOON_MS,
        "warning",
        812_000,
        9_500,
        "session",
        803,
        "acme began 812 sessions in 5 minutes",
        "roommeter sessions --project acme",
        (("threshold", 61),),
    )
    return usual._replace(**changes)
