"""`GET /v1/limits/{project}`: how a project's limits stand, from memory, for whoever enforces them."""

from collections.abc import Callable, Sequence
from typing import Final

import orjson
from aiohttp import web

from pipeline.limits.codec import standing_document
from pipeline.metering.limits import Standing
from pipeline.metering.units import format_time

#: The longest name of a project (R21).
_MOST_CHARACTERS: Final = 256

Answer = tuple[int, Sequence[Standing]]
"""The moment, in ms, and how the limits stood then."""


class LimitsPage:
    """The route, which answers 503 until somebody can tell: whoever enforces decides what that means to him."""

    def __init__(self) -> None:
        """Begin without anybody who can tell."""
        self.ask: Callable[[str], Answer | None] = lambda _project: None

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_get("/v1/limits/{project}", self._get)

    async def _get(self, request: web.Request) -> web.Response:
        project = request.match_info["project"]
        if len(project) > _MOST_CHARACTERS or not project.isprintable():
            return _answer(400, {"error": f"a project's name has at most {_MOST_CHARACTERS} printable characters"})
        answer = self.ask(project)
        if answer is None:
            return _answer(503, {"error": "limits have not been evaluated yet; /readyz says what is missing"})
        as_of_ms, standings = answer
        return _answer(
            200,
            {
                "project": project,
                "as_of": format_time(as_of_ms),
                "limits": [standing_document(standing) for standing in standings],
            },
        )


def _answer(status: int, document: object) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(document), content_type="application/json")
