"""For all tests of the gateway: one that really listens."""

from collections.abc import AsyncIterator

import pytest

from tests.gateway.running import Running, running


@pytest.fixture
async def gateway() -> AsyncIterator[Running]:
    """Run a gateway with default settings; its clocks stand still."""
    async with running() as started:
        yield started
