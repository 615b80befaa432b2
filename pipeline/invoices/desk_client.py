"""How commands find a running `up` beside the embedded store that they cannot open, and order invoices of it."""

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import orjson

from pipeline.clickhouse import StoreUnavailable
from pipeline.invoices.desk import REFUSALS, Order, desk_path, reachable
from pipeline.invoices.document import decode_invoice
from pipeline.metering.invoice import Invoice


class RunningUp:
    """A `roommeter up` that has the store."""

    def __init__(self, name: str) -> None:
        """Ask it where its store answers. Raises OSError where nobody answers."""
        self._name = name
        with _Connection(name) as connection:
            connection.request("GET", "/")
            #: Where the store can be asked, as an address of ClickHouse.
            self.queries = str(orjson.loads(connection.getresponse().read())["queries"])
        self._unassigned: list[str] = []

    @classmethod
    def find(cls, directory: Path) -> Self | None:
        """Return who has the embedded store of a directory and takes orders; None where nobody does."""
        name = reachable(desk_path(directory))
        try:
            return None if name is None else cls(name)
        except OSError:
            return None

    def issue(self, order: Order) -> Iterator[Invoice]:
        """Order invoices, and yield each as soon as it is issued. Raises what issuing raises, StoreUnavailable too."""
        with _Connection(self._name) as connection:
            try:
                connection.request(
                    "POST", "/v1/invoices", order.model_dump_json(), {"Content-Type": "application/json"}
                )
                for line in connection.getresponse():
                    said: dict[str, Any] = orjson.loads(line)
                    if "error" in said:
                        raise REFUSALS[said["error"]](said["detail"])
                    if "unassigned" in said:
                        self._unassigned = said["unassigned"]
                        return
                    yield decode_invoice(orjson.dumps(said["invoice"]))
            except (http.client.HTTPException, OSError) as error:
                raise StoreUnavailable(f"the running `up` broke off ({error}): issue again") from error
        raise StoreUnavailable("the running `up` broke off: issue again, what is issued stays")

    def unassigned(self) -> list[str]:
        """Return the projects with usage that the plans file does not name, after the last order."""
        return self._unassigned


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, name: str) -> None:
        super().__init__("up")
        self._name = name

    def connect(self) -> None:
        """Connect to the socket in place of a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
