"""A real Janus server with real participants, and the real gateway for the events it sends; writes what all say.

A program for a network namespace of its own, as Janus takes no connections from the loopback interface:
`unshare --net --pid --fork --kill-child python -m tests.janus.rig OUTPUT`. All addresses are fixed, so that the
files of infra/janus are used as they stand. With `--record` a collector takes the events in place of the gateway,
and OUTPUT is what recording.json is.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientError, ClientSession, web

from tests.janus.client import JANUS_URL, PATIENCE_S, SESSION_TIMEOUT_S, client, now_ms, participant, within
from tests.janus.receivers import Collector, Gateway, collecting, metering, pause

_ROOT: Final = Path(__file__).parents[2]
#: All of it takes some 75 s.
_LONGEST_S: Final = 160
#: How many deliveries show what Janus makes of answers; one of them is not answered, one is refused.
_DELIVERIES: Final = 8
_TRANSPORT: Final = 'general: { json = "compact" base_path = "/janus" http = true port = 8088 ip = "127.0.0.1" }\n'

Json = dict[str, Any]
Receiver = Collector | Gateway


@asynccontextmanager
async def _janus(folder: Path, http: ClientSession) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run Janus with the configuration of infra/janus, and kill it at the end."""
    with (folder / "janus.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            "janus", "--configs-folder", str(folder), "--config", str(folder / "janus.jcfg"),
            "--session-timeout", str(SESSION_TIMEOUT_S), "--disable-colors", stdout=log, stderr=log,
            cwd=folder,  # one of its plugins makes a folder where it stands
        )  # fmt: skip
    try:
        await within(PATIENCE_S, "Janus to answer", _up(http))
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _up(http: ClientSession) -> None:
    while not await _answers(http):
        await pause(0.05)


async def _answers(http: ClientSession) -> bool:
    try:
        async with http.get(f"{JANUS_URL}/info") as response:
            return response.status == web.HTTPOk.status_code
    except ClientError:
        return False


def _bring_up_network() -> None:
    """Give this namespace a pair of interfaces that is no loopback, and no way out."""
    for command in (
        "link set lo up",
        "link add rig0 type veth peer name rig1",
        "address add 10.213.0.1/24 dev rig0",
        "link set rig0 up",
        "link set rig1 up",
    ):
        subprocess.run(["ip", *command.split()], check=True)


async def _leaves(http: ClientSession, misbehaving: asyncio.Task[None]) -> Json:
    """Talk for more than a minute, and until the receiver has been through everything; then say goodbye."""
    async with participant(http, "ada", "acme-standup") as ada:
        await ada.create_room()
        await ada.join()
        await ada.publish()
        visitor = asyncio.create_task(_hangs_up(http, ada.record["feed"]))
        await ada.stay(61.5)
        await asyncio.wait({misbehaving}, timeout=50)
        await ada.leave()
        return {"ada": ada.record, "bob": await visitor}


async def _hangs_up(http: ClientSession, feed: str) -> Json:
    """Send and receive for some seconds; then hang up."""
    async with participant(http, "bob", "acme-standup") as bob:
        await bob.join()
        await bob.publish()
        await bob.receive(feed)
        await bob.stay(12)
        await bob.hang_up()
        return bob.record


async def _only_signals(http: ClientSession) -> Json:
    """Join, and leave without ever connecting; the room is nobody's."""
    async with participant(http, "cleo", "lobby") as cleo:
        await cleo.create_room()
        await cleo.join()
        await cleo.leave()
        return {"cleo": cleo.record}


async def _is_killed(http: ClientSession) -> Json:
    """Vanish without a word."""
    async with participant(http, "owner", "acme-desk") as owner:
        await owner.create_room()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.janus.client", "dan", "acme-desk", stdout=subprocess.PIPE, cwd=_ROOT
        )
        assert process.stdout is not None
        line = await within(PATIENCE_S, "dan to be connected", process.stdout.readline())
        session, handle, connected_at_ms = line.split()
        await owner.stay(4)
        process.send_signal(signal.SIGKILL)
        record = {"name": "dan", "room": "acme-desk", "how": "kill", "ended_at_ms": now_ms()}
        await process.wait()
        await owner.stay(SESSION_TIMEOUT_S + 4)
        record |= {"session": session.decode(), "handle": handle.decode(), "connected_at_ms": int(connected_at_ms)}
        return {"dan": record}


async def _is_closed_out(http: ClientSession) -> Json:
    """Stay until the room is destroyed."""
    async with participant(http, "owner", "beta-lab") as owner, participant(http, "eve", "beta-lab") as eve:
        await owner.create_room()
        await eve.join()
        await eve.publish()
        await eve.stay(7)
        eve.record["ended_at_ms"] = now_ms()
        await owner.destroy_room()
        await eve.lost("destroyed")
        return {"eve": eve.record}


async def _scenario(folder: Path, receiver: Receiver) -> Json:
    """Play all of it; return what the driver knows and what the receiver has."""
    async with client() as http:
        async with _janus(folder, http) as server:
            async with asyncio.TaskGroup() as group:
                misbehaving = group.create_task(receiver.misbehave())
                scenes = (_leaves(http, misbehaving), _only_signals(http), _is_killed(http), _is_closed_out(http))
                parts = [group.create_task(scene) for scene in scenes]
            async with participant(http, "zoe", "beta-night") as zoe:
                await zoe.create_room()
                await zoe.join()
                await zoe.publish()
                await zoe.stay(7)
                zoe.record |= {"how": "crash", "ended_at_ms": now_ms()}
                server.kill()
                await server.wait()
        async with _janus(folder, http):
            await receiver.until_started(2)
        records = {name: record for part in parts for name, record in part.result().items()} | {"zoe": zoe.record}
        return {"participants": records, **await receiver.said()}


async def _deliveries(folder: Path) -> Json:
    """Return deliveries of a Janus whose events are taken, but not always answered as they should be."""
    async with collecting() as collector, client() as http, _janus(folder, http):
        for number in range(_DELIVERIES):
            async with participant(http, "finn", f"acme-{number}") as finn:
                await finn.create_room()
                await finn.join()
                await collector.until_delivered(number + 1)
        return {"deliveries": collector.batches}


async def _play(folder: Path) -> Json:
    """Return what becomes of events by the gateway, and how Janus delivers them."""
    deliveries = await _deliveries(folder)
    async with metering(folder) as gateway:
        return deliveries | await _scenario(folder, gateway)


async def _record(folder: Path) -> Json:
    """Return the events themselves."""
    async with collecting() as collector:
        return await _scenario(folder, collector)


async def _bounded(play: Coroutine[Any, Any, Json]) -> Json:
    """Return what came of it. Where it takes too long, say what each task waits for, and raise TimeoutError."""
    playing = asyncio.create_task(play)
    await asyncio.wait({playing}, timeout=_LONGEST_S)
    if not playing.done():
        for task in asyncio.all_tasks():
            task.print_stack(file=sys.stderr)
        raise TimeoutError(f"it takes longer than {_LONGEST_S} s")
    return playing.result()


def main(output: Path, *, is_recording: bool) -> None:
    """Prepare the namespace and Janus's configuration, play the scenario, write what came of it as JSON."""
    with suppress(PermissionError):
        # Times are compared to the second: what else the machine does, the other tests, has to wait for us.
        os.nice(-10)
    _bring_up_network()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in (_ROOT / "infra" / "janus").glob("*.jcfg"):
            shutil.copy(file, folder)
        (folder / "janus.transport.http.jcfg").write_text(_TRANSPORT)
        try:
            played = asyncio.run(_bounded(_record(folder) if is_recording else _play(folder)))
            output.write_text(json.dumps(played))
        finally:
            logs = [log.read_bytes() for log in sorted(folder.glob("*.log"))]
            output.with_suffix(".log").write_bytes(b"".join(logs))


if __name__ == "__main__":
    main(Path(sys.argv[1]), is_recording="--record" in sys.argv)
