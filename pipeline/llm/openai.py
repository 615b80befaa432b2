"""Answers of OpenAI's API, and of all that speak it, as usage: chat and text completions, and responses. Pure.

A log holds one answer an entry: as it came, as the last chunk of a stream (with `usage`), or as a line of a Batch API
output. Cached and reasoning tokens are part of `prompt_tokens` and `completion_tokens` (`input_tokens` and
`output_tokens`), and are counted there. An answer without usage (a chunk, a failure) used nothing.
"""

from collections.abc import Mapping
from typing import Any, Final

from pipeline.llm.usage import Document, Used, events, identifier, label, mapping, seconds_ms, tokens
from pipeline.metering.events import InvalidEvent, Reason

SOURCE: Final = "llm/openai"
#: By `object`: the fields of time, input and output.
_KINDS: Final = {
    **dict.fromkeys(
        ("chat.completion", "chat.completion.chunk", "text_completion"),
        ("created", "prompt_tokens", "completion_tokens"),
    ),
    "response": ("created_at", "input_tokens", "output_tokens"),
}


def canonical(entry: Mapping[str, Any], project: str) -> list[Document]:
    """Return the events of an entry of a log. Raises InvalidEvent."""
    answer = mapping(mapping(entry, "response"), "body") if "custom_id" in entry else entry
    if "custom_id" in entry and not answer:  # a request of a batch that failed
        return []
    kind = answer.get("object")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InvalidEvent(Reason.WRONG_FIELD, f"object is one of {sorted(_KINDS)}")
    usage = mapping(answer, "usage")
    if not usage:
        return []
    time, spent, written = _KINDS[kind]
    return events(
        Used(
            source=SOURCE,
            id=identifier(answer, "id"),
            time_ms=seconds_ms(answer, time),
            project=project,
            input_tokens=tokens(usage, spent),
            output_tokens=tokens(usage, written),
            model=label(answer.get("model")),
            status=label(answer.get("status")),
        )
    )
