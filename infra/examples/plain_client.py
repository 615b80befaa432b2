"""Writes a call to Kafka with nothing but a Kafka client: python plain_client.py KAFKA START END (RFC 3339)."""

import asyncio
import json
import os
import sys

from aiokafka import AIOKafkaProducer

TOPIC = os.environ.get("TOPIC", "lifecycle")
HEADERS = [("content-type", b"application/cloudevents+json; charset=UTF-8")]


async def main(kafka: str, start: str, end: str) -> None:
    """Send the two events of a session; sent again, they change nothing."""
    data = {"project": "acme", "room": "standup", "session": "plain-17", "kind": "participant"}
    async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True) as producer:
        for event_type, time in (("session.connected", start), ("session.disconnected", end)):
            event = {
                "specversion": "1.0",
                "id": f"plain-17-{event_type}",
                "source": "plain-client",
                "type": event_type,
                "time": time,
                "data": data,
            }
            key = f"{data['project']}/{data['room']}".encode()
            await producer.send_and_wait(TOPIC, json.dumps(event).encode(), key, headers=HEADERS)


asyncio.run(main(*sys.argv[1:]))
