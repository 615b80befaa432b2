"""The files that pages load: style, script, icon, and the chart library as its authors ship it."""

from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

_DIRECTORY: Final = Path(__file__).parent / "static"
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_DIGITS: Final = 12


class Asset(NamedTuple):
    """A file as it is sent, and what names this content of it."""

    body: bytes
    content_type: str
    version: str


class Assets:
    """All files, in memory, by their path below `static`."""

    def __init__(self) -> None:
        """Read them."""
        self._by_path = {
            path.relative_to(_DIRECTORY).as_posix(): _read(path)
            for path in sorted(_DIRECTORY.rglob("*"))
            if path.suffix in _TYPES
        }

    def get(self, path: str) -> Asset | None:
        """Return a file, None where there is none."""
        return self._by_path.get(path)

    def address(self, path: str) -> str:
        """Return where pages load a file from: another content has another address. Raises KeyError."""
        return f"/static/{path}?v={self._by_path[path].version}"


def _read(path: Path) -> Asset:
    body = path.read_bytes()
    return Asset(body, _TYPES[path.suffix], sha256(body).hexdigest()[:_DIGITS])
