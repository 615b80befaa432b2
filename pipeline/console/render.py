"""Pages from templates, in which every value is escaped: the only importer of jinja2."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.console import words
from pipeline.deadletters.text import visible
from pipeline.metering.units import NEVER_MS, format_time

_FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "number": words.number,
    "duration": words.duration,
    "moment": words.moment,
    "pieces": words.pieces,
    "iso": format_time,
    "visible": visible,
}


class Page(NamedTuple):
    """A page to be rendered: the template's name and what it says."""

    template: str
    values: dict[str, Any]
    status: int = 200


class Renderer:
    """All templates; a value that a template names and a page does not have is an error."""

    def __init__(self, asset: Callable[[str], str]) -> None:
        """Take what gives a static file its address."""
        self._environment = Environment(
            loader=PackageLoader("pipeline.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= _FILTERS
        self._environment.globals |= {"asset": asset, "flags": words.FLAGS, "NEVER_MS": NEVER_MS}

    def render(self, page: Page, **common: Any) -> str:
        """Return a page as HTML."""
        return self._environment.get_template(page.template).render(**common, **page.values)
