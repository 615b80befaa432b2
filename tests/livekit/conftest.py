"""A LiveKit server that follows a script, for the scenes."""

import pytest

from tests.livekit_server import LivekitServer


@pytest.fixture
def server() -> LivekitServer:
    """A server on which RM_1 has started at 14:00:00."""
    one = LivekitServer()
    one.room_started("14:00:00")
    return one
