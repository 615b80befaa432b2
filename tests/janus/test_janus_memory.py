"""What an adapter remembers outlives the gateway: killed at any point, it goes on as if nothing had been."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.janus.events import JanusAdapter
from pipeline.janus.memory import JanusMemory, MemoryUnavailable

_ROOT: Final = Path(__file__).parents[2]
_CAPTURE: list[dict[str, Any]] = json.loads((_ROOT / "schemas" / "recordings" / "janus-capture.json").read_text())
#: A gateway that reads the first half of the capture, keeps what it knows, and dies.
_KILLED: Final = """
import json, os, signal, sys
from pathlib import Path
from pipeline.janus.events import JanusAdapter
from pipeline.janus.memory import JanusMemory

events = json.loads(Path(sys.argv[1]).read_text())
adapter, memory = JanusAdapter("acme"), JanusMemory(Path(sys.argv[2]))
adapter.canonical(events[: len(events) // 2])
memory.note(adapter.changed())
memory.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def _restarted(memory: JanusMemory, events: Sequence[dict[str, Any]], name: str = "") -> list[dict[str, Any]]:
    """Read events as a gateway that has just started; keep what it knows."""
    adapter = JanusAdapter("acme", name=name)
    adapter.restore(memory.entries())
    documents = adapter.canonical(events)
    memory.note(adapter.changed())
    memory.flush()
    return documents


@pytest.mark.parametrize("cut", range(len(_CAPTURE) + 1))
def test_a_restart_between_any_two_events_changes_nothing(cut: int, tmp_path: Path) -> None:
    """R10: every cut point of a real call, each side read by a process of its own."""
    documents = []
    for events in (_CAPTURE[:cut], _CAPTURE[cut:]):
        with JanusMemory(tmp_path / "memory") as memory:
            documents += _restarted(memory, events)
    assert documents == JanusAdapter("acme").canonical(_CAPTURE)


def test_a_restart_after_every_event_changes_nothing(tmp_path: Path) -> None:
    """R10: nothing is kept in the process alone."""
    with JanusMemory(tmp_path / "memory") as memory:
        documents = [document for event in _CAPTURE for document in _restarted(memory, [event])]
    assert documents == JanusAdapter("acme").canonical(_CAPTURE)


def test_a_killed_gateway_knows_its_rooms_afterwards(tmp_path: Path) -> None:
    """What was flushed is there after kill -9, and the dead process holds no lock."""
    recording = tmp_path / "capture.json"
    recording.write_text(json.dumps(_CAPTURE))
    command = [sys.executable, "-c", _KILLED, str(recording), str(tmp_path / "memory")]
    assert subprocess.run(command, cwd=_ROOT, check=False).returncode == -signal.SIGKILL
    half = len(_CAPTURE) // 2
    with JanusMemory(tmp_path / "memory") as memory:
        rest = _restarted(memory, _CAPTURE[half:])
    whole = JanusAdapter("acme")
    whole.canonical(_CAPTURE[:half])
    assert rest == whole.canonical(_CAPTURE[half:])


def test_a_batch_that_comes_again_after_a_restart_tells_nothing_new(tmp_path: Path) -> None:
    """R10: kept, but killed before the answer: Janus repeats it, and ids and facts are the same."""
    with JanusMemory(tmp_path / "memory") as memory:
        first = _restarted(memory, _CAPTURE)
        again = _restarted(memory, _CAPTURE)
    assert [document["id"] for document in again] == [document["id"] for document in first]


def test_only_what_changed_is_written() -> None:
    """A batch costs what it says, not what is known."""
    adapter = JanusAdapter("acme")
    adapter.canonical(_CAPTURE)
    assert [json.loads(key)[1] for key in adapter.changed()] == [
        "handle",
        "room",
        "project",
        "participant",
        "participant",
    ]
    adapter.canonical([event for event in _CAPTURE if event["type"] == 32])
    assert [json.loads(key)[1] for key in adapter.changed()] == ["handle"]
    assert adapter.changed() == {}


def test_what_is_forgotten_leaves_the_disk(tmp_path: Path) -> None:
    """Memory is bounded on disk as well: 10 000 handles of one session."""
    attached = next(event for event in _CAPTURE if event["type"] == 2)
    with JanusMemory(tmp_path / "memory") as memory:
        _restarted(memory, [attached | {"handle_id": number} for number in range(1, 10_001)])
        _restarted(memory, [attached | {"handle_id": 10_001}])
        kept = {json.loads(key)[4] for key, _ in memory.entries()}
    assert (len(kept), "1" in kept, "10001" in kept) == (10_000, False, True)


def test_adapters_of_several_names_share_a_file(tmp_path: Path) -> None:
    """Two servers that call themselves alike stay two."""
    with JanusMemory(tmp_path / "memory") as memory:
        _restarted(memory, _CAPTURE[:20], name="eu-1")
        documents = _restarted(memory, _CAPTURE[-2:], name="eu-2")
        (end, *_) = _restarted(memory, _CAPTURE[-2:], name="eu-1")
    assert documents[0]["data"]["room"] == "eu-2/janus-a/3384302670814722"
    assert end["data"]["room"] == "eu-1/janus-a/4711/1795297129335"


def test_nobody_speaks_for_another_name(tmp_path: Path) -> None:
    """A server that puts another's name before its own learns nothing of that one's rooms."""
    with JanusMemory(tmp_path / "memory") as memory:
        _restarted(memory, _CAPTURE[:20], name="eu-1")
        (end, *_) = _restarted(memory, [event | {"emitter": "eu-1/janus-a"} for event in _CAPTURE[-2:]])
    assert end["data"]["room"] == "eu-1/janus-a/3384302670814722"


def test_identities_are_kept_on_disk_as_the_project_wants_them(tmp_path: Path) -> None:
    """What is dropped or hashed is so on the gateway's disk too, as are display names."""
    adapter = JanusAdapter("acme", lambda project, identity: f"{project}:{len(identity)}")
    documents = adapter.canonical(_CAPTURE)
    with JanusMemory(tmp_path / "memory") as memory:
        memory.note(adapter.changed())
        memory.flush()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert {document["data"].get("identity") for document in documents} == {None, "acme:9"}
    assert b"acme:9" in kept
    assert (b"user-18f2" in kept, b"Ada" in kept) == (False, False)


def test_a_second_process_is_kept_away(tmp_path: Path) -> None:
    """Two gateways on one file would overwrite each other's memory."""
    with JanusMemory(tmp_path / "memory"), pytest.raises(MemoryUnavailable, match="no other gateway may use this file"):
        JanusMemory(tmp_path / "memory")


def test_what_could_not_be_written_is_written_by_the_next_flush(tmp_path: Path) -> None:
    """R22: a full disk loses nothing; the newest value of a key is what stays."""
    memory = JanusMemory(tmp_path / "memory")
    memory._file.execute("PRAGMA max_page_count = 1")  # the file is full from now on
    memory.note({"a": b"1" * 100_000, "b": b"1"})
    with pytest.raises(MemoryUnavailable, match="full"):
        memory.flush()
    memory._file.execute("PRAGMA max_page_count = 1000000")
    memory.note({"b": b"2", "c": None})
    memory.flush()
    memory.close()
    with JanusMemory(tmp_path / "memory") as reopened:
        assert dict(reopened.entries()) == {"a": b"1" * 100_000, "b": b"2"}


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    """It holds who was where."""
    with JanusMemory(tmp_path / "memory") as memory:
        _restarted(memory, _CAPTURE)
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
