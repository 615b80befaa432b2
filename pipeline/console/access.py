"""Who may look at the console: by token, and who sees which project. Sessions of browsers are kept in memory.

On loopback everybody who reaches the port may look, as at the queries beside it. There a page of another site could
still reach it through a name of its own that leads to 127.0.0.1; so the name that was asked for has to be loopback's.
"""

import re
import secrets
from collections.abc import Callable
from hashlib import sha256
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from pipeline.gateway.http_limits import Problem, Rates
from pipeline.gateway.projects import Projects, Viewer

COOKIE: Final = "roommeter_console"
#: Whoever reaches the port, where no token is asked for.
ANYBODY: Final = Viewer("", None)

#: A working day; who stays longer shows the token again.
_SESSION_S: Final = 12 * 3600
_MOST_SESSIONS: Final = 1_000
_LOGINS_PER_S: Final = 5
#: A path of our own to go on to: no other host, in whichever way browsers read slashes.
_OWN_PATH: Final = re.compile(r"/(?![/\\])[^\\\x00-\x20]{0,2000}")


def is_loopback(host: str) -> bool:
    """Tell whether a host's name or address, without port, leads to this machine alone."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def own_path(path: str) -> str:
    """Return where to go after the login: the path, or the first page where it is not one of ours."""
    return path if _OWN_PATH.fullmatch(path) else "/"


class Access:
    """Judges requests by token or session; `monotonic` tells seconds that never go back."""

    def __init__(self, projects: Projects, monotonic: Callable[[], float], *, is_open: bool) -> None:
        """Take who has tokens; `is_open` lets everybody in who asks for loopback."""
        self.is_open = is_open
        self._projects = projects
        self._monotonic = monotonic
        self._rates = Rates(monotonic)
        self._sessions: dict[bytes, tuple[Viewer, float]] = {}

    def viewer(self, request: web.Request) -> Viewer | None:
        """Return who asks, None for nobody known. Raises Problem 421 for a foreign name of this machine, 401, 403."""
        if request.method == "POST" and not _is_from_here(request):
            raise Problem(403, "this form was sent by a page of another site")
        if self.is_open:
            if not is_loopback(request.host.rsplit(":", 1)[0] if not request.host.endswith("]") else request.host):
                raise Problem(421, "without tokens the console answers to http://127.0.0.1 and http://localhost alone")
            return ANYBODY
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme:
            found = self._projects.viewer(token.strip()) if scheme.lower() == "bearer" else None
            if found is None:
                raise Problem(401, "this token is none of the console's", {"WWW-Authenticate": "Bearer"})
            return found
        return self._of_session(request.cookies.get(COOKIE, ""))

    def log_in(self, token: str) -> str | None:
        """Return the name of a new session, None where the token is none of ours. Raises Problem 429."""
        self._rates.take("login", _LOGINS_PER_S)
        viewer = self._projects.viewer(token)
        if viewer is None:
            return None
        while len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        name = secrets.token_urlsafe(32)
        self._sessions[_digest(name)] = viewer, self._monotonic() + _SESSION_S
        return name

    def log_out(self, request: web.Request) -> None:
        """Forget the session of a request."""
        self._sessions.pop(_digest(request.cookies.get(COOKIE, "")), None)

    def _of_session(self, name: str) -> Viewer | None:
        """Look a session up by its digest: how long that takes tells about digests, and from those no name follows."""
        viewer, until_s = self._sessions.get(_digest(name), (None, 0.0))
        return viewer if self._monotonic() < until_s else None


def _is_from_here(request: web.Request) -> bool:
    """Tell whether a form is our own, as browsers say; other clients say nothing, and have no cookies to abuse."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host


def _digest(name: str) -> bytes:
    return sha256(name.encode("utf-8", "surrogatepass")).digest()
