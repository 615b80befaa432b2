"""An event as a program makes it with `import roommeter`."""

from datetime import UTC, datetime
from typing import Any, Final

import roommeter

NOON: Final = datetime(2026, 9, 21, 12, tzinfo=UTC)


def connected(**changed: Any) -> roommeter.SessionConnected:
    """Return a session that connects at noon, but for what is changed."""
    given: dict[str, Any] = {"room": "standup", "session": "c-17", "kind": "agent", "at": NOON}
    return roommeter.SessionConnected(**given | changed)
