"""Where a running `up` takes orders: a Unix socket beside its data, for whoever may use that directory.

The embedded store has one process at a time, and its endpoint lets nobody write. So the process that has it issues
invoices for others: the only order there is. The socket lies in a directory of mode 0700 and has mode 0600.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import orjson
from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pipeline.clickhouse import StoreError, StoreUnavailable
from pipeline.invoices.document import encode_invoice
from pipeline.invoices.invoicing import InvoiceRefused, Invoicing
from pipeline.metering.meters import Meters
from pipeline.metering.months import Month
from pipeline.metering.plans import InvalidPlans
from pipeline.metering.plans_file import parse_plans
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.clickhouse import Store
    from pipeline.metering.invoice import Invoice

_log = logging.getLogger(__name__)

#: A plans file of thousands of projects is a megabyte.
_MOST_BYTES: Final = 16 * 1_048_576
#: The longest path of a Unix socket, on all systems.
_MOST_PATH_BYTES: Final = 103
#: What an order may fail with; the client raises the same.
REFUSALS: Final = {error.__name__: error for error in (InvoiceRefused, InvalidPlans, StoreError, StoreUnavailable)}


class Order(BaseModel):
    """Issue a month's invoices, all or one project's, as of a moment in ms, by the text of a plans file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    month: Annotated[str, AfterValidator(lambda text: str(Month.parse(text)))]
    project: str | None
    as_of_ms: int
    plans: str


def invoicing_of(
    store: "Store", meters: Meters, settings: Settings, clock: Callable[[], int]
) -> Callable[[Order], Invoicing]:
    """Return what carries out an order in a store; `clock` tells ms since the epoch. It raises as in REFUSALS."""

    def make(order: Order) -> Invoicing:
        if order.as_of_ms > clock():
            raise InvoiceRefused("as_of lies ahead: what is issued is what is known")
        plans = parse_plans(order.plans, meters)
        return Invoicing(store, meters, plans, settings, Month.parse(order.month), order.as_of_ms)

    return make


def desk_path(directory: Path) -> Path:
    """Return the socket's path, for the directory of the embedded store."""
    return directory.parent / "desk" / "up.sock"


def reachable(path: Path) -> str | None:
    """Return a path as the system takes it, as it is or from the working directory; None where both are too long."""
    written = [str(path)]
    if path.is_relative_to(Path.cwd()):
        written.append(str(path.relative_to(Path.cwd())))
    shortest = min(written, key=len)
    return shortest if len(shortest.encode()) <= _MOST_PATH_BYTES else None


@asynccontextmanager
async def open_desk(directory: Path, queries: str, invoicing: Callable[[Order], Invoicing]) -> AsyncIterator[None]:
    """Take orders while in here; `queries` is where the store answers."""
    path = desk_path(directory)
    name = reachable(path)
    if name is None:
        _log.warning("%s is too long for a socket: invoices cannot be issued while this runs", path)
        yield
        return
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)  # of a process that was killed: whoever has the store has the socket
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name)
        path.chmod(0o600)
        runner = web.AppRunner(_app(queries, invoicing), access_log=None)
        await runner.setup()
        try:
            await web.SockSite(runner, listening).start()
            yield
        finally:
            await runner.cleanup()
            path.unlink(missing_ok=True)


def _app(queries: str, invoicing: Callable[[Order], Invoicing]) -> web.Application:
    one_at_a_time = asyncio.Lock()

    async def tell(_: web.Request) -> web.Response:
        return web.json_response({"queries": queries})

    async def issue(request: web.Request) -> web.StreamResponse:
        try:
            order = Order.model_validate_json(await request.read())
        except ValidationError as error:
            return web.json_response({"error": "InvoiceRefused", "detail": str(error)}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async with one_at_a_time:
            async for line in _issued(invoicing, order):
                await response.write(line + b"\n")
        return response

    app = web.Application(client_max_size=_MOST_BYTES)
    app.router.add_get("/", tell)
    app.router.add_post("/v1/invoices", issue)
    return app


async def _issued(invoicing: Callable[[Order], Invoicing], order: Order) -> AsyncIterator[bytes]:
    """Issue, and yield each invoice as its document as soon as it is issued; last what is still to be said."""
    try:
        made = await asyncio.to_thread(invoicing, order)
        issued: Iterator[Invoice] = made.issue(order.project)
        while (one := await asyncio.to_thread(next, issued, None)) is not None:
            _log.info("issued %s", one.name)
            yield orjson.dumps({"invoice": orjson.Fragment(encode_invoice(one))})
    except tuple(REFUSALS.values()) as error:
        yield orjson.dumps({"error": type(error).__name__, "detail": str(error)})
    else:
        yield orjson.dumps({"unassigned": made.unassigned()})
