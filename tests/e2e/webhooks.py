"""LiveKit's side of a webhook: keys of projects, signed bodies, and the notifier's rule of when to try again."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout

from pipeline.embedded import now_ms
from tests.gateway.signing import sign_livekit

#: A part of every project's API secret, to be looked for where it must not be.
SECRET: Final = "api-secret-that-must-not-be-seen"  # noqa: S105 - signs nothing but these tests
#: How often LiveKit tries.
ATTEMPTS: Final = 5
#: How long LiveKit waits for an answer.
_PATIENCE: Final = ClientTimeout(total=5)
_OK: Final = 200
_TOO_MANY: Final = 429
_SERVER_ERRORS: Final = range(500, 600)


def write_projects(path: Path, projects: Iterable[str], more: str = "") -> Path:
    """Write a projects file in which each project has a LiveKit key; `more` goes into the last one's table."""
    tables = [
        f"[projects.{name}]\nrequests_per_s = 100000\n"
        f'livekit = [{{key = "{key_of(name)}", secret = "{secret_of(name)}"}}]'
        for name in projects
    ]
    path.touch(mode=0o600)
    path.write_text("\n".join([*tables, more]))
    return path


async def post(
    client: ClientSession, url: str, project: str, body: bytes, patience: ClientTimeout = _PATIENCE
) -> int | None:
    """Post a body as a project's server does, signed now; return the status, None where no answer came."""
    signed = sign_livekit(key_of(project), secret_of(project), body, now_ms() // 1_000)
    headers = {"Authorization": signed, "Content-Type": "application/webhook+json"}
    try:
        async with client.post(f"{url}/webhooks/livekit", data=body, headers=headers, timeout=patience) as answer:
            await answer.read()
            return answer.status
    except (ClientError, OSError, TimeoutError):
        return None


async def notify(client: ClientSession, url: str, project: str, body: bytes, pause_s: float) -> list[int | None]:
    """Post until it is delivered, as LiveKit understands it; return what came of each attempt.

    Five attempts at most, after pauses that double. An error of the server or the connection is tried again, and so
    is 429; any other answer is the end of it: all else from 400 to 499 loses the webhook.
    """
    came: list[int | None] = []
    never = asyncio.Event()
    while len(came) < ATTEMPTS:
        if came:
            await asyncio.wait({waiting := asyncio.create_task(never.wait())}, timeout=pause_s * 2 ** (len(came) - 1))
            waiting.cancel()
        status = await post(client, url, project, body)
        came.append(status)
        if status not in (None, _TOO_MANY, *_SERVER_ERRORS):
            break
    return came


def is_accepted(came: list[int | None]) -> bool:
    """Tell whether the last attempt of a webhook was answered with 200."""
    return came[-1] == _OK


def key_of(project: str) -> str:
    """Return the API key of a project."""
    return f"API{project}"


def secret_of(project: str) -> str:
    """Return what its server signs with."""
    return f"{project}-{SECRET}"
