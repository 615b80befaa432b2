"""Reports a call through the library: python library.py KAFKA START END (RFC 3339)."""

import asyncio
import os
import sys
from datetime import datetime

import roommeter


async def main(kafka: str, start: str, end: str) -> None:
    """Send the two events of a session; leaving the `with` waits until the brokers have them."""
    topic = os.environ.get("TOPIC", "lifecycle")
    async with roommeter.Producer(kafka, project="acme", source="library-client", topic=topic) as producer:
        begin, leave = map(datetime.fromisoformat, (start, end))
        await producer.connected(room="standup", session="lib-17", kind="participant", at=begin)
        await producer.disconnected(room="standup", session="lib-17", reason="left", at=leave)


asyncio.run(main(*sys.argv[1:]))
