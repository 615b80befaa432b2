"""What pipeline/fastlane.py stands on inside Faust. It fails loudly when an upgrade changes any of it.

When it fails: read what changed, run tests/contracts/test_fastlane.py, mend fastlane.py, and only then
put the new digests here.
"""

import hashlib
import inspect
from importlib.metadata import version
from typing import Any, Final

import pytest
from faust.app.base import App
from faust.channels import Channel
from faust.tables.base import Collection
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport import consumer
from faust.transport.drivers import aiokafka as driver

_NAMES: Final = {
    "App": App,
    "Channel": Channel,
    "Collection": Collection,
    "TableManager": TableManager,
    "Recovery": Recovery,
    "consumer": consumer,
    "driver": driver,
}
#: Every function that we override, call or rely on, with the digest of its source in the version we pin.
STANDS_ON: Final = {
    "consumer.Consumer._drain_messages": "44a2500309e8",
    "consumer.Consumer._wait_next_records": "6218e1969a63",
    "consumer.Consumer._filter_tps_with_pending_acks": "f6f923977423",
    "consumer.Consumer._new_offset": "1d2c7ea89a7a",
    "consumer.Consumer._should_commit": "5ce941793947",
    "consumer.Consumer._commit_tps": "a20e230b05ae",
    "consumer.Consumer._commit_offsets": "1a6979904118",
    "consumer.Consumer.wait_empty": "e4662fe24f09",
    "consumer.Consumer.on_partitions_revoked": "d04b7ae72c6f",
    "consumer.Consumer.perform_seek": "0e8c130ff4b0",
    "consumer.Fetcher._fetcher": "68f894f0b577",
    "driver.Producer._settings_extra": "a4c7bc41b638",
    "driver.Producer._ensure_producer": "5592a4bbdf25",
    "driver.AIOKafkaConsumerThread._commit": "932852ce7a23",
    "driver.AIOKafkaConsumerThread.getmany": "26fc5fc9f3b6",
    "App._new_transport": "42db531312dd",
    "App._new_producer_transport": "eb3b4aa6a896",
    "App._on_partitions_revoked": "d5c895bbe57d",
    "App._stop_consumer": "55854a5de12c",
    "TableManager._update_channels": "88e3941facc9",
    "Recovery._restart_recovery": "6bd8a8558a2d",
    "Recovery._slurp_changelogs": "7825c7e50f76",
    "Recovery.on_rebalance": "aa4d997a1795",
    "Recovery.need_recovery": "fd1dc345b5d5",
    "Recovery.on_recovery_completed": "6ef567acf072",
    "Recovery._build_offsets": "27eec86be06c",
    "Recovery._seek_offsets": "19598ca63d94",
    "Collection.on_recovery_completed": "b1526fb39ea0",
    "Channel.put": "81477c39c70b",
}


def _find(name: str) -> Any:
    first, *rest = name.split(".")
    found: Any = _NAMES[first]
    for part in rest:
        found = inspect.getattr_static(found, part)
    return getattr(found, "fun", found)


@pytest.mark.parametrize("name", STANDS_ON)
def test_what_the_batch_path_stands_on_is_as_it_was_read(name: str) -> None:
    """The source of each private function is the one that fastlane.py was written against."""
    source = inspect.getsource(_find(name))
    assert hashlib.sha256(source.encode()).hexdigest()[:12] == STANDS_ON[name]


def test_the_version_of_faust_is_the_pinned_one() -> None:
    """pyproject.toml pins faust-streaming exactly, because of the above."""
    assert version("faust-streaming") == "0.15.3"
