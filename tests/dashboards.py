"""The dashboards as they ship, and the queries in them."""

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tests.metering.builders import ROOT

FOLDER: Final = ROOT / "infra" / "grafana"


class Asked(NamedTuple):
    """A query of a panel or of a variable, and where it stands."""

    where: str
    text: str
    datasource: str


def documents() -> dict[str, Any]:
    """Return each dashboard by the name of its file."""
    return {path.name: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))}


def queries(datasource: str) -> list[Asked]:
    """Return every query of one data source."""
    return [asked for asked in _all() if asked.datasource == datasource]


def _all() -> Iterator[Asked]:
    for document in documents().values():
        for panel in document["panels"]:
            for target in panel["targets"]:
                text = target.get("expr") or target["rawSql"]
                yield Asked(f"{document['title']}: {panel['title']}", text, target["datasource"]["uid"])
        for variable in document["templating"]["list"]:
            name = f"{document['title']}: variable {variable['name']}"
            yield Asked(name, variable["query"]["rawSql"], variable["datasource"]["uid"])
