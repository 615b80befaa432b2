"""OpenTelemetry's metric `gen_ai.client.token.usage` (OTLP/JSON) as usage: a histogram of tokens, by type. Pure.

Only delta temporality can be counted: a cumulative point says what was used since a process began, and a restart or a
lost request would make of it a guess (OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=delta makes exporters right).
A point is known by its resource, its attributes and its span of time, so one that is sent again counts once. The sum of
a histogram is a double, whole as long as tokens are. Other metrics are passed over; of attributes, pass the names of
provider, model and server.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from pipeline.livekit.wire import MILLISECOND
from pipeline.llm.usage import Document, Used, digest, events, label, mapping, possible
from pipeline.metering.events import InvalidEvent, Reason

METRIC: Final = "gen_ai.client.token.usage"
_DELTA: Final = (1, "AGGREGATION_TEMPORALITY_DELTA")
_INPUT: Final = "input"
#: The second is what the conventions said until 2024.
_OUTPUT: Final = ("output", "completion")
#: DataPointFlags: no value was recorded.
_NO_VALUE: Final = 1
#: Up to here a double is the number that was meant.
_MOST_EXACT: Final = 2**53
_MOST_DIGITS: Final = 20

Fields = Mapping[str, Any]


def canonical(request: Fields, project: str) -> list[Document]:
    """Return the events of an ExportMetricsServiceRequest. Raises InvalidEvent: the request counts whole or not."""
    found: list[Document] = []
    for of_resource in _objects(request, "resourceMetrics"):
        resource = _attributes(mapping(of_resource, "resource"))
        for of_scope in _objects(of_resource, "scopeMetrics"):
            for metric in _objects(of_scope, "metrics"):
                if metric.get("name") == METRIC:
                    for point in _points(metric):
                        found += _used(point, resource, project)
    return found


def _points(metric: Fields) -> Iterator[Fields]:
    histogram = mapping(metric, "histogram") or mapping(metric, "exponentialHistogram")
    if not histogram:
        raise InvalidEvent(Reason.WRONG_FIELD, f"{METRIC} has to be a histogram")
    if histogram.get("aggregationTemporality") not in _DELTA:
        raise InvalidEvent(
            Reason.WRONG_FIELD, "aggregationTemporality has to be delta: cumulative sums cannot be billed"
        )
    for point in _objects(histogram, "dataPoints"):
        flags = point.get("flags")
        if not (type(flags) is int and flags & _NO_VALUE):
            yield point


def _used(point: Fields, resource: Fields, project: str) -> list[Document]:
    said = _attributes(point)
    kind = said.get("gen_ai.token.type")
    if kind != _INPUT and kind not in _OUTPUT:
        raise InvalidEvent(Reason.WRONG_FIELD, "gen_ai.token.type has to be input or output")
    count = _whole(point.get("sum"))
    began, ended = _nanoseconds(point, "startTimeUnixNano"), _nanoseconds(point, "timeUnixNano")
    provider = said.get("gen_ai.provider.name") or said.get("gen_ai.system")
    span = orjson.dumps([resource, said, began, ended], option=orjson.OPT_SORT_KEYS)
    return events(
        Used(
            source=f"llm/{label(provider)[:64] or 'otlp'}",
            id=digest(span.decode()),
            time_ms=possible(ended // MILLISECOND, "timeUnixNano"),
            project=project,
            input_tokens=count if kind == _INPUT else 0,
            output_tokens=0 if kind == _INPUT else count,
            model=label(said.get("gen_ai.response.model")) or label(said.get("gen_ai.request.model")),
            endpoint=label(said.get("server.address")),
        )
    )


def _objects(fields: Fields, name: str) -> list[Fields]:
    held = fields.get(name)
    if held is None:
        return []
    if not isinstance(held, list) or not all(isinstance(element, Mapping) for element in held):
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be a list of objects")
    return held


def _attributes(fields: Fields) -> dict[str, Any]:
    """Return attributes by key: texts as they are, any other value as OTLP writes it."""
    found: dict[str, Any] = {}
    for attribute in _objects(fields, "attributes"):
        key, value = attribute.get("key"), mapping(attribute, "value")
        if isinstance(key, str):
            found[key] = value.get("stringValue", dict(value))
    return found


def _whole(held: Any) -> int:
    if held is None:
        raise InvalidEvent(Reason.MISSING_FIELD, "sum is required")
    is_number = isinstance(held, int | float) and not isinstance(held, bool)
    if not is_number or not abs(held) <= _MOST_EXACT or held % 1:
        raise InvalidEvent(Reason.WRONG_FIELD, "sum has to be a whole number of tokens")
    if held < 0:
        raise InvalidEvent(Reason.NEGATIVE_QUANTITY, "sum is negative")
    return int(held)


def _nanoseconds(point: Fields, name: str) -> int:
    """Read a fixed64, which OTLP/JSON writes as text; numbers are understood too."""
    held = point.get(name)
    if isinstance(held, str) and held.isascii() and held.isdigit() and len(held) <= _MOST_DIGITS:
        held = int(held)
    if type(held) is not int or not 0 <= held < 2**64:
        raise InvalidEvent(Reason.WRONG_FIELD, f"{name} has to be nanoseconds since the epoch")
    return held
