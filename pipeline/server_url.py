"""The address of a server, as files of settings may name it."""

from urllib.parse import urlsplit


def server_url(url: str) -> str:
    """Return an address without a slash at its end; raises ValueError, which never shows what stands in it."""
    try:
        parts = urlsplit(url)
        is_server = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc and parts.port != 0
    except ValueError:  # its own message would show the address, with the password that may stand in it
        is_server = False
    if not is_server:
        raise ValueError("is not http(s)://host[:port][/path] without user and password; wss:// becomes https://")
    return url.rstrip("/")
