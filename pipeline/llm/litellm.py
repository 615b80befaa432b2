"""Logs of a LiteLLM proxy (StandardLoggingPayload, as its callback `generic_api` posts it) as usage. Pure.

What LiteLLM answered from its own cache went to no model: it used nothing. Of an entry pass counts, times, the names of
model and provider, and the ids of team and virtual key; messages, answers, addresses, e-mails and raw keys do not.
"""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from pipeline.llm.usage import Document, Used, digest, events, identifier, label, mapping, seconds_ms, tokens

SOURCE: Final = "llm/litellm"
#: LiteLLM knows a virtual key by its SHA-256.
_HASH: Final = re.compile(r"[0-9a-f]{64}")


def canonical(entry: Mapping[str, Any], project: str) -> list[Document]:
    """Return the events of one log. Raises InvalidEvent."""
    if entry.get("cache_hit") is True:
        return []
    metadata = mapping(entry, "metadata")
    ended_ms, started_ms = seconds_ms(entry, "endTime"), seconds_ms(entry, "startTime")
    return events(
        Used(
            source=SOURCE,
            id=identifier(entry, "id"),
            time_ms=ended_ms,
            project=project,
            input_tokens=tokens(entry, "prompt_tokens"),
            output_tokens=tokens(entry, "completion_tokens"),
            model=label(entry.get("model")),
            endpoint=_host(entry.get("api_base")) or label(entry.get("custom_llm_provider")),
            team=label(metadata.get("user_api_key_team_id")),
            key=_key(metadata.get("user_api_key_hash")),
            status=label(entry.get("status")),
            latency_ms=max(0, ended_ms - started_ms),
        )
    )


def _host(address: object) -> str:
    """Return the host of an address: a key can stand everywhere else in it."""
    try:
        host = urlsplit(address).hostname if isinstance(address, str) else None
    except ValueError:
        return ""
    return label(host)


def _key(held: object) -> str:
    """Return the hash of a key: whatever is no hash could be the key itself, and is hashed here."""
    if not isinstance(held, str) or not held:
        return ""
    return held if _HASH.fullmatch(held) else digest(held)
