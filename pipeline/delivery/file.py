"""The file that says where rollups are delivered: targets, customers, event names (TOML). Secrets stay out of it."""

import binascii
import tomllib
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from pipeline.delivery.delivery import Target
from pipeline.delivery.targets import OpenMeter, Stripe, Webhook
from pipeline.metering.meters import Meters
from pipeline.server_url import server_url

#: Standard Webhooks: a secret has 24 to 64 bytes, and is written in base64 behind this.
_PREFIX: Final = "whsec_"
_LEAST_SECRET_BYTES: Final = 24
_MOST_SECRET_BYTES: Final = 64
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class InvalidTargets(ValueError):
    """The file of targets cannot be used; the message says what to do, and no secret."""


def _check_safe_url(url: str) -> str:
    if urlsplit(server_url(url)).scheme != "https" and urlsplit(url).hostname not in _LOOPBACK:
        raise ValueError("is not https, and would show the key to the network")
    return server_url(url)


_Url = Annotated[str, AfterValidator(server_url)]
_SafeUrl = Annotated[str, AfterValidator(_check_safe_url)]
_Variable = Annotated[str, StringConstraints(pattern="^[A-Za-z_][A-Za-z0-9_]*$")]
_EventName = Annotated[str, StringConstraints(min_length=1, max_length=100)]
_Customer = Annotated[str, StringConstraints(pattern="^[!-~]{1,255}$")]


class _Table(BaseModel):
    """A table of the file: unknown fields are errors, and no value is shown."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class _Webhook(_Table):
    url: _Url
    secret_env: _Variable


class _Stripe(_Table):
    key_env: _Variable
    url: _SafeUrl = "https://api.stripe.com"
    customers: dict[str, _Customer]
    events: dict[str, _EventName]
    ignored_meters: list[str] = []


class _OpenMeter(_Table):
    url: _Url
    token_env: _Variable | None = None


class _File(_Table):
    webhook: _Webhook | None = None
    stripe: _Stripe | None = None
    openmeter: _OpenMeter | None = None


def read_target(path: Path, name: str, environ: Mapping[str, str], meters: Meters) -> Target:
    """Read one target of the file, by name. Raises InvalidTargets; OSError where the file cannot be read."""
    try:
        file = _File.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidTargets(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)]
        raise InvalidTargets(f"{path}: {'; '.join(problems)}") from None
    table: Any = getattr(file, name)
    if table is None:
        raise InvalidTargets(f"{path} has no [{name}]")
    if isinstance(table, _Webhook):
        return Webhook(table.url, _signing_secret(_secret(environ, table.secret_env)))
    if isinstance(table, _Stripe):
        unknown = sorted({*table.events, *table.ignored_meters} - meters.keys())
        if unknown:
            raise InvalidTargets(f"{path}: stripe: {', '.join(unknown)}: not in the table of meters")
        key = _secret(environ, table.key_env)
        return Stripe(table.url, key, table.customers, table.events, frozenset(table.ignored_meters), meters)
    return OpenMeter(table.url, _secret(environ, table.token_env) if table.token_env else "")


def _secret(environ: Mapping[str, str], variable: str) -> str:
    secret = environ.get(variable, "")
    if not secret or not secret.isascii() or not secret.isprintable() or secret != secret.strip():
        raise InvalidTargets(f"the environment variable {variable} has to hold the secret, and nothing else")
    return secret


def _signing_secret(text: str) -> bytes:
    try:
        secret = b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not text.startswith(_PREFIX) or not _LEAST_SECRET_BYTES <= len(secret) <= _MOST_SECRET_BYTES:
        raise InvalidTargets(f"the webhook's secret is {_PREFIX} and the base64 of 24 to 64 random bytes")
    return secret
