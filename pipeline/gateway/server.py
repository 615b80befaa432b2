"""HTTP in: webhooks of LiveKit, Janus and LiteLLM, CloudEvents. Who sends is checked, what is sent kept, then answered.

Built on aiohttp: it is here already (Faust brings it), health and metrics are served by it, and its parser in C costs
less per request than the signature does. A 2xx is given only after the outbox has made everything durable. Whoever may
send is told what became of each event, and nothing is ever refused for what it says; whoever may not send is told only
that, and the closed reason goes to a metric.
"""

import asyncio
import binascii
import logging
import traceback
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

import orjson
from aiohttp import web

from pipeline.gateway import cloudevents
from pipeline.gateway.http_limits import Connection, Problem, Rates, problem_response, read_body
from pipeline.gateway.intake import Border, Disposition, Intake, TooManyEvents
from pipeline.gateway.outbox import OutboxFull
from pipeline.gateway.projects import JanusSource, Project, Projects
from pipeline.gateway.signature import BadSignature, Reason, verify_livekit
from pipeline.janus.events import JanusAdapter
from pipeline.janus.memory import JanusMemory, MemoryUnavailable
from pipeline.messages import Message
from pipeline.metering.meters import Meters, discrete_meters
from pipeline.metrics import Metrics
from pipeline.resources import schemas
from pipeline.settings import Settings
from pipeline.topics import topics

_log = logging.getLogger(__name__)

#: How long a connection may be silent: longer than reverse proxies keep theirs, so that none is cut under a request.
_KEEPALIVE_S: Final = 75.0
#: How long the rest of a refused body is read, so that the client sees the answer and not a reset.
_LINGER_S: Final = 2.0
#: How long answers under way may take once the gateway stops.
_STOP_S: Final = 10.0
#: A Janus server whose rooms belong to several projects has no rate of its own.
_JANUS_REQUESTS_PER_S: Final = 500
#: What may pass by itself. Janus takes any answer for delivered: it sends again only where none comes.
_PASSING: Final = frozenset({408, 429, 500, 503})
_RETRY_SOON: Final = {"Retry-After": "1"}
_MS: Final = 1_000


class Accepts(Protocol):
    """What makes messages durable; `pipeline.gateway.outbox.Outbox` is one."""

    async def accept(self, messages: Sequence[Message]) -> None:
        """Return when all are durable. Raises OutboxFull."""
        ...


def make_border(settings: Settings, meters: Meters) -> Border:
    """Return what takes bodies, as the settings say and with the fields that the schemas of events name."""
    names = topics(settings)
    return Border(
        lifecycle=names.lifecycle.name,
        dead_letters=names.dead_letters.name,
        meters=discrete_meters(meters),
        fields=_event_fields(),
        max_letter_bytes=settings.max_event_bytes,
        max_depth=settings.gateway_json_depth,
        max_events=settings.gateway_batch_events,
    )


def _event_fields() -> dict[str, frozenset[str]]:
    """Return the data fields of each type of event, by type, from schemas/events."""
    found = {}
    for path in (schemas() / "events").glob("*.json"):
        properties = orjson.loads(path.read_bytes())["properties"]
        found[properties["type"]["const"]] = frozenset(properties.get("data", {}).get("properties", {}))
    return found


class Gateway:
    """The routes. All state is a memory of Janus sessions, buckets of tokens and a count of requests under way."""

    def __init__(
        self,
        settings: Settings,
        projects: Projects,
        border: Border,
        outbox: Accepts,
        memory: JanusMemory,
        metrics: Metrics,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        """Join the parts. `clock` tells ms since the epoch, `monotonic` seconds that never go back."""
        self._settings = settings
        self._projects = projects
        self._border = border
        self._outbox = outbox
        self._memory = memory
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._rates = Rates(monotonic)
        self._adapters: dict[str, JanusAdapter] = {}
        self._openapi = (schemas() / "openapi.json").read_bytes()
        self._requests = 0

    def make_app(self) -> web.Application:
        """Return the application, to be served by `serving`."""
        app = web.Application(middlewares=[self._answered])
        app.router.add_post("/webhooks/livekit", self._livekit, name="livekit")
        app.router.add_post("/webhooks/janus", self._janus, name="janus")
        app.router.add_post("/webhooks/litellm", self._litellm, name="litellm")
        app.router.add_post("/v1/events", self._events, name="events")
        app.router.add_get("/openapi.json", self._document, name="openapi")
        return app

    @web.middleware
    async def _answered(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answer a request whatever happens, and count it."""
        began_s = self._monotonic()
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.begin()
        try:
            response = await self._bounded(request, handler)
        except Problem as problem:
            response = problem_response(problem)
        except web.HTTPException as error:
            kept = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            response = problem_response(Problem(error.status, error.reason, kept))
        except Exception as error:  # noqa: BLE001 - the sender tries again, and the next request is served
            # Not the error's own text: a body's may stand in it.
            where = traceback.extract_tb(error.__traceback__)[-1]
            _log.error("A request failed: %s in %s:%s", type(error).__name__, where.filename, where.lineno)
            response = problem_response(Problem(500, "this is an error of the gateway; try again", _RETRY_SOON))
        finally:
            connection.end()
        route = request.match_info.route.name or "none"
        if route == "janus" and response.status in _PASSING and request.transport is not None:
            request.transport.abort()
        self._metrics.gateway_requests.labels(route, response.status).inc()
        self._metrics.gateway_request_seconds.observe(self._monotonic() - began_s)
        return response

    async def _bounded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Handle a request where not too many are under way."""
        if self._requests >= self._settings.gateway_requests:
            raise Problem(503, "too many requests are under way", _RETRY_SOON)
        self._requests += 1
        try:
            return await handler(request)
        finally:
            self._requests -= 1

    async def _livekit(self, request: web.Request) -> web.Response:
        """Take a webhook of a LiveKit server, signed with a project's key."""
        try:
            authorization = request.headers.get("Authorization")
            if not authorization:
                raise BadSignature(Reason.MISSING)  # noqa: TRY301 - before anything of the body is read
            if "Content-Encoding" in request.headers:
                raise Problem(415, "a signed webhook is sent as it is", {"Accept-Encoding": "identity"})
            body = await self._body(request, self._settings.gateway_body_bytes)
            now_ms = self._clock()
            project = verify_livekit(authorization, body, self._projects, now_ms // _MS)
        except BadSignature as error:
            self._metrics.gateway_refused.labels(error.reason).inc()
            raise _unauthorized("LiveKit", "this is not a webhook signed with a key known here") from None
        self._rates.take(project.name, project.requests_per_s)
        return await self._kept(self._border.from_livekit(body, project, now_ms))

    async def _janus(self, request: web.Request) -> web.Response:
        """Take events of a Janus server, by user and password."""
        source = self._projects.by_janus(*_basic(request.headers.get("Authorization", "")))
        if source is None:
            self._metrics.gateway_refused.labels("credentials").inc()
            raise _unauthorized("Basic", "the user and password of a Janus server are asked for")
        project = self._projects.by_name(source.project)
        self._rates.take(*(project.name, project.requests_per_s) if project else (source.name, _JANUS_REQUESTS_PER_S))
        body = await self._body(request, self._settings.gateway_batch_bytes)
        adapter = self._adapter(source)
        try:
            intake = self._border.from_janus(body, source.project, adapter.read, self._clock())
        except TooManyEvents as error:
            raise Problem(413, str(error)) from None
        self._memory.note(adapter.changed())
        try:
            await asyncio.to_thread(self._memory.flush)
        except MemoryUnavailable:
            raise Problem(503, "nothing can be kept now; try again", _RETRY_SOON) from None
        return await self._kept(intake)

    def _token_owner(self, request: web.Request) -> Project:
        """Return the project whose token a request has."""
        project = self._projects.by_token(_bearer(request.headers.get("Authorization", "")))
        if project is None:
            self._metrics.gateway_refused.labels("credentials").inc()
            raise _unauthorized("Bearer", "a project's token is asked for")
        return project

    async def _litellm(self, request: web.Request) -> web.Response:
        """Take logs of a LiteLLM proxy, by a project's token."""
        project = self._token_owner(request)
        self._rates.take(project.name, project.requests_per_s)
        body = await self._body(request, self._settings.gateway_batch_bytes)
        try:
            return await self._kept(self._border.from_litellm(body, project, self._clock()))
        except TooManyEvents as error:
            raise Problem(413, str(error)) from None

    async def _events(self, request: web.Request) -> web.Response:
        """Take CloudEvents, by a project's token."""
        project = self._token_owner(request)
        try:
            mode = cloudevents.mode_of(request.content_type, has_version="ce-specversion" in request.headers)
        except cloudevents.UnsupportedMode as error:
            accepted = f"{cloudevents.STRUCTURED}, {cloudevents.BATCH}"
            raise Problem(415, str(error), {"Accept-Post": accepted}) from None
        self._rates.take(project.name, project.requests_per_s)
        if mode == "batch":
            body = await self._body(request, self._settings.gateway_batch_bytes)
            try:
                return await self._kept(self._border.from_events(body, project, self._clock()))
            except TooManyEvents as error:
                raise Problem(413, str(error)) from None
        body = await self._body(request, self._settings.gateway_body_bytes)
        return await self._kept_one(self._one_event(request, mode, body, project))

    def _one_event(self, request: web.Request, mode: cloudevents.Mode, body: bytes, project: Project) -> Intake:
        if mode == "structured":
            return self._border.from_event(body, project, self._clock())
        return self._border.from_data(cloudevents.attributes(request.headers.items()), body, project, self._clock())

    async def _document(self, _: web.Request) -> web.Response:
        """Return the description of all this."""
        return web.Response(body=self._openapi, content_type="application/json")

    async def _body(self, request: web.Request, max_bytes: int) -> bytes:
        return await read_body(request, max_bytes, self._settings.gateway_body_timeout_ms / _MS)

    def _adapter(self, source: JanusSource) -> JanusAdapter:
        """Return the adapter of a Janus server, with what it remembered when the gateway last stopped."""
        adapter = self._adapters.get(source.name)
        if adapter is None:
            adapter = JanusAdapter(source.project_of, self._identity_of, source.name)
            adapter.restore(self._memory.entries())
            self._adapters[source.name] = adapter
        return adapter

    def _identity_of(self, project: str, identity: str) -> str:
        found = self._projects.by_name(project)
        return found.identity_of(identity) if found else ""

    async def _kept_one(self, intake: Intake) -> web.Response:
        """Answer for a single event: one that is not the sender's to post is refused as a request."""
        response = await self._kept(intake)
        for answer in intake.answers:
            if answer.disposition is Disposition.REFUSED:
                raise Problem(403, answer.detail)
        return response

    async def _kept(self, intake: Intake) -> web.Response:
        """Make everything durable, then count it and say what became of each event."""
        if intake.messages:
            try:
                await self._outbox.accept(intake.messages)
            except OutboxFull as full:
                wait = {"Retry-After": str(full.retry_after_s)}
                raise Problem(503, "nothing can be kept now; try again", wait) from None
        for answer in intake.answers:
            if answer.disposition is Disposition.REFUSED:
                self._metrics.gateway_refused.labels(answer.reason).inc()
            else:
                self._metrics.gateway_events.labels(answer.disposition).inc()
            if answer.disposition is Disposition.DEAD_LETTER:
                self._metrics.dead_letters.labels(answer.reason).inc()
        if intake.unknown_fields:
            self._metrics.gateway_unknown_fields.inc(intake.unknown_fields)
        return web.Response(body=orjson.dumps(_report(intake)), content_type="application/json")


def _report(intake: Intake) -> dict[str, object]:
    """Return the answer: counts, and each event in the order sent."""
    events = [{name: value for name, value in answer._asdict().items() if value} for answer in intake.answers]
    return {**{disposition.value: intake.count(disposition) for disposition in Disposition}, "events": events}


def _unauthorized(scheme: str, detail: str) -> Problem:
    return Problem(401, detail, {"WWW-Authenticate": f'{scheme} realm="roommeter"'})


def _bearer(authorization: str) -> str:
    """Return the token of a header, '' where there is none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _basic(authorization: str) -> tuple[str, str]:
    """Return user and password of a header, '' for both where there are none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return user, password


@asynccontextmanager
async def serving(app: web.Application, settings: Settings) -> AsyncIterator[int]:
    """Serve a gateway's application; yield its port. Raises OSError where the port is taken.

    On leaving, no new connection is taken, and answers under way may finish.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_S)
    await runner.setup()
    server = runner.server
    assert server is not None
    loop = asyncio.get_running_loop()

    def connection() -> Connection:
        return Connection(
            server,
            loop=loop,
            header_timeout_s=settings.gateway_header_timeout_ms / _MS,
            keepalive_timeout=_KEEPALIVE_S,
            lingering_time=_LINGER_S,
            # What is packed is unpacked here, where its sender is known and its size is bounded.
            auto_decompress=False,
            access_log=None,
        )

    try:
        listener = await loop.create_server(connection, settings.gateway_host, settings.gateway_port, backlog=1024)
        try:
            yield listener.sockets[0].getsockname()[1]
        finally:
            listener.close()
    finally:
        await runner.cleanup()
