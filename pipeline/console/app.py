"""The console as an HTTP application: routes, headers, login, and errors that a person can read."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from pipeline.clickhouse import StoreError, StoreUnavailable
from pipeline.console.access import COOKIE, Access, own_path
from pipeline.console.alarms import alerts
from pipeline.console.assets import Assets
from pipeline.console.desk import Desk
from pipeline.console.overview import overview, projects
from pipeline.console.project import project
from pipeline.console.render import Page, Renderer
from pipeline.console.session import session
from pipeline.gateway.http_limits import Problem
from pipeline.gateway.projects import Viewer

#: Nothing but our own files, nothing inline, in nobody's frame.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PAGES: Final[Mapping[str, Callable[[Desk, Viewer, web.Request], Awaitable[Page]]]] = {
    "/": overview,
    "/projects": projects,
    "/project": project,
    "/session": session,
    "/alerts": alerts,
}
#: A year: another content has another address.
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_MOST_FORM_BYTES: Final = 16_384
_MOST_ERROR_CHARACTERS: Final = 600
_REFUSALS: Final = {
    404: "There is no such page, project or session here; or its project is not yours to see.",
    405: "This page is only to be looked at.",
    413: "This form is too long.",
}

_VIEWER: Final = web.RequestKey("viewer", Viewer)

_log: Final = logging.getLogger(__name__)


class Console:
    """The routes over a desk, for those whom `access` lets in."""

    def __init__(self, desk: Desk, access: Access) -> None:
        """Read files and templates."""
        self._desk = desk
        self._access = access
        self._assets = Assets()
        self._renderer = Renderer(self._assets.address)

    def make_app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[self._guard], client_max_size=_MOST_FORM_BYTES)
        for path, page in _PAGES.items():
            app.router.add_get(path, self._handler(page))
        app.router.add_get("/login", self._show_login)
        app.router.add_post("/login", self._log_in)
        app.router.add_post("/logout", self._log_out)
        app.router.add_get("/static/{path:.+}", self._static)
        app.router.add_get("/healthz", _healthz)
        app.on_response_prepare.append(_secure)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Let in who may look, and turn errors into pages."""
        viewer: Viewer | None = None
        try:
            viewer = self._access.viewer(request)
            is_public = request.path in ("/login", "/healthz") or request.path.startswith("/static/")
            if viewer is None and not is_public:
                raise web.HTTPSeeOther(f"/login?{urlencode({'next': request.path_qs})}")
            if viewer is not None:
                request[_VIEWER] = viewer
            return await handler(request)
        except (Problem, web.HTTPClientError, StoreError) as error:
            problem = _problem(error, viewer)
            response = self._error(request, viewer, problem.status, problem.detail)
            response.headers.update(problem.headers)
            return response

    def _handler(
        self, page: Callable[[Desk, Viewer, web.Request], Awaitable[Page]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            return self._respond(request, await page(self._desk, request[_VIEWER], request), request[_VIEWER])

        return handle

    def _respond(self, request: web.Request, page: Page, viewer: Viewer | None) -> web.Response:
        text = self._renderer.render(
            page,
            path=request.path,
            viewer=viewer,
            has_login=not self._access.is_open,
            now_ms=self._desk.clock(),
            address=_address,
        )
        response = web.Response(
            text=text, status=page.status, content_type="text/html", headers={"Cache-Control": "no-store"}
        )
        response.enable_compression()
        return response

    def _error(self, request: web.Request, viewer: Viewer | None, status: int, detail: str) -> web.Response:
        values = {"status": status, "title": HTTPStatus(status).phrase, "detail": detail}
        return self._respond(request, Page("error.html", values, status), viewer)

    async def _show_login(self, request: web.Request) -> web.Response:
        if _VIEWER in request:
            raise web.HTTPSeeOther("/")
        after = own_path(request.query.get("next", "/"))
        return self._respond(request, Page("login.html", {"next": after, "is_wrong": False}), None)

    async def _log_in(self, request: web.Request) -> web.Response:
        form = await request.post()
        token, after = (value if isinstance(value := form.get(name), str) else "" for name in ("token", "next"))
        name = self._access.log_in(token.strip())
        if name is None:
            return self._respond(request, Page("login.html", {"next": own_path(after), "is_wrong": True}, 403), None)
        response = web.HTTPSeeOther(own_path(after))
        is_secure = request.secure or request.headers.get("X-Forwarded-Proto") == "https"
        response.set_cookie(COOKIE, name, httponly=True, samesite="Strict", secure=is_secure, path="/")
        raise response

    async def _log_out(self, request: web.Request) -> web.Response:
        self._access.log_out(request)
        response = web.HTTPSeeOther("/login")
        response.del_cookie(COOKIE, path="/")
        raise response

    async def _static(self, request: web.Request) -> web.Response:
        asset = self._assets.get(request.match_info["path"])
        if asset is None:
            raise web.HTTPNotFound
        keep = _FOR_EVER if request.query.get("v") == asset.version else "no-cache"
        headers = {"Cache-Control": keep}
        response = web.Response(body=asset.body, content_type=asset.content_type, charset="utf-8", headers=headers)
        response.enable_compression()
        return response


async def _healthz(_: web.Request) -> web.Response:
    return web.Response(text="alive\n")


async def _secure(_: web.Request, response: web.StreamResponse) -> None:
    """Put the headers on every answer, of errors and files too."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)


def _problem(error: Exception, viewer: Viewer | None) -> Problem:
    """Return what a viewer is told: who sees one project is told nothing of the installation."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, web.HTTPClientError):
        return Problem(error.status, _REFUSALS.get(error.status, "This request cannot be answered."))
    _log.warning("a page could not be shown: %s", error)
    detail = "The store cannot answer now; try again in a moment."
    if viewer is not None and viewer.project is None:
        detail = str(error)[:_MOST_ERROR_CHARACTERS]
    return Problem(503 if isinstance(error, StoreUnavailable) else 500, detail)


def _address(path: str, **names: Any) -> str:
    """Return a link to a page by names of any characters; empty ones are left out."""
    query = urlencode({name: value for name, value in names.items() if value not in ("", None)})
    return f"{path}?{query}" if query else path
