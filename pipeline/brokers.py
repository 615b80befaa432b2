"""Where the brokers are and how to speak to them: what ROOMMETER_KAFKA says."""

import ssl
from functools import cache
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

_SCHEMES: Final = ("kafka", "kafka+ssl")
_FILES: Final = ("ca", "certificate", "key")
#: SASL mechanisms that need no more than a name and a password.
_MECHANISMS: Final = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
_FORM: Final = "is not host:port,host:port or kafka[+ssl]://[user:password@]host:port,host:port[?options]"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


class Security(NamedTuple):
    """TLS, or None; a SASL mechanism with name and password, or '' for none."""

    tls: ssl.SSLContext | None
    mechanism: str
    username: str
    password: str


class Brokers(str):
    """`host:port,host:port`, which may be shown; how to speak to them goes along, and no text shows it."""

    __slots__ = ("security",)
    security: Security

    @classmethod
    def parse(cls, address: str) -> Self:
        """Read `host:port,…` or `kafka[+ssl]://[user:password@]host:port,…[?sasl=…&ca=…&certificate=…&key=…]`.

        Raises ValueError, whose message shows no part of the address: a password may stand in it.
        """
        if "://" not in address:
            address = f"kafka://{address}"
        try:
            parts = urlsplit(address)
        except ValueError:  # its own message would show the address
            raise ValueError(_FORM) from None
        credentials, _, hosts = parts.netloc.rpartition("@")
        if parts.scheme not in _SCHEMES or not hosts or parts.path not in ("", "/") or parts.fragment:
            raise ValueError(_FORM)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if options.keys() - {"sasl", *_FILES}:  # which, is not said: behind a `?` in a password stands its rest
            raise ValueError(f"has an option that is none of sasl, {', '.join(_FILES)}; in a password ? is written %3F")
        brokers = cls(hosts)
        brokers.security = _security(brokers, credentials, options, is_tls=parts.scheme == "kafka+ssl")
        return brokers


def _security(hosts: str, credentials: str, options: dict[str, str], *, is_tls: bool) -> Security:
    username, _, password = map(unquote, credentials.partition(":"))
    mechanism = options.get("sasl", _MECHANISMS[0]) if credentials else ""
    if bool(username) != bool(password) or (credentials and not username):
        raise ValueError("has a user without a password, or a password without a user")
    if "sasl" in options and (not credentials or mechanism not in _MECHANISMS):
        raise ValueError(f"sasl is one of {', '.join(_MECHANISMS)}, and goes with user:password@")
    if any(name in options for name in _FILES) and not is_tls:
        raise ValueError("has certificates without TLS: write kafka+ssl://")
    if "key" in options and "certificate" not in options:
        raise ValueError("has a key without its certificate")
    if credentials and not is_tls and not all(host.rpartition(":")[0] in _LOOPBACK for host in hosts.split(",")):
        raise ValueError("would show the password to the network: write kafka+ssl://")
    return Security(_tls(*map(options.get, _FILES)) if is_tls else None, mechanism, username, password)


@cache
def _tls(ca: str | None, certificate: str | None, key: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            # Without a password here the library would ask for it on the terminal.
            context.load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"ca, certificate or key cannot be used: {type(error).__name__}: {error}") from error
    return context


def security_of(bootstrap: str) -> Security:
    """Return how to speak to brokers; to a plain `host:port` without TLS and password."""
    return bootstrap.security if isinstance(bootstrap, Brokers) else Security(None, "", "", "")


def client_options(bootstrap: str) -> dict[str, Any]:
    """Return the arguments with which aiokafka's clients reach these brokers."""
    tls, mechanism, username, password = security_of(bootstrap)
    options: dict[str, Any] = {
        "bootstrap_servers": str(bootstrap),
        "security_protocol": ("SASL_" if mechanism else "") + ("SSL" if tls else "PLAINTEXT"),
        "ssl_context": tls,
    }
    if mechanism:
        options |= {"sasl_mechanism": mechanism, "sasl_plain_username": username, "sasl_plain_password": password}
    return options
