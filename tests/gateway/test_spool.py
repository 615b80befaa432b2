"""What the spool promises: order, a bound, and that what it took is there again, whatever happened meanwhile."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.gateway.spool import Entry, Spool, Spooled, SpoolFull, SpoolInUse, SpoolUnavailable, size_bytes
from pipeline.messages import Message

LIMIT_BYTES = 3_000
EVERYTHING = (0, 1_000_000, 1_000_000_000)
MESSAGES = strategies.builds(
    Message,
    strategies.sampled_from(["lifecycle", "dead-letters"]),
    strategies.none() | strategies.binary(max_size=20),
    strategies.binary(max_size=400),
    strategies.lists(strategies.tuples(strategies.text(max_size=5), strategies.binary(max_size=5))).map(tuple),
    strategies.sampled_from([None, -1, 0, 7]),
)
ENTRIES = strategies.builds(
    Entry, MESSAGES, strategies.integers(0, 2**50), strategies.sampled_from([None, None, "too large"])
)
#: Appends for ever, and says after each append how many messages were taken so far.
WRITER = """
import sys
from pathlib import Path
from pipeline.messages import Message
from pipeline.gateway.spool import Entry, Spool
spool = Spool(Path(sys.argv[1]), 1 << 30)
while True:
    first = spool.last_seq + 1
    spool.append([Entry(Message("t", b"k", b"%d" % number * 200), 0) for number in range(first, first + 7)])
    print(spool.last_seq, flush=True)
"""
#: Fills a file that may not grow beyond 200 kB, then says what happened and what is still there.
CRAMPED_WRITER = """
import resource, sys
from pathlib import Path
from pipeline.messages import Message
from pipeline.gateway.spool import Entry, Spool, SpoolUnavailable
spool = Spool(Path(sys.argv[1]), 1 << 30)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    while True:
        spool.append([Entry(Message("t", b"k", b"x" * 10_000), 0)])
except SpoolUnavailable as error:
    taken = [record.seq for record in spool.read(0, 1000, 1 << 30)]
    assert taken == list(range(1, spool.waiting + 1)), taken
    print(spool.waiting, error)
"""


def text(value: str) -> Entry:
    """Return an entry of which only the value matters."""
    return Entry(Message("t", b"k", value.encode()), 1_000)


def values(spool: Spool) -> list[str]:
    """Return the values that wait, in order."""
    return [record.message.value.decode() for record in spool.read(*EVERYTHING)]


class SpoolIsAList(RuleBasedStateMachine):
    """A spool behaves as two lists do: what waits and what was refused; closing and opening joins them."""

    def __init__(self) -> None:
        """Begin with an empty one."""
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.spool = Spool(Path(self.directory.name), LIMIT_BYTES)
        self.waiting: list[tuple[int, Entry]] = []
        self.refused: list[tuple[int, Entry]] = []
        self.last_seq = 0

    @rule(entries=strategies.lists(ENTRIES, max_size=5))
    def append(self, entries: list[Entry]) -> None:
        """All of it is added, or nothing where it does not fit."""
        taken_bytes = sum(size_bytes(entry.message) for _, entry in self.waiting + self.refused)
        if taken_bytes + sum(size_bytes(entry.message) for entry in entries) > LIMIT_BYTES:
            with pytest.raises(SpoolFull):
                self.spool.append(entries)
            return
        self.spool.append(entries)
        for seq, entry in enumerate(entries, self.last_seq + 1):
            (self.waiting if entry.refused is None else self.refused).append((seq, entry))
        self.last_seq += len(entries)

    @precondition(lambda self: self.waiting)
    @rule(data=strategies.data())
    def settle(self, data: strategies.DataObject) -> None:
        """What waits up to a place goes, but for what was refused."""
        settled = self.waiting[: data.draw(strategies.integers(1, len(self.waiting)))]
        refused = data.draw(strategies.lists(strategies.sampled_from(settled), unique_by=lambda pair: pair[0]))
        self.spool.settle(settled[-1][0], [(seq, "forbidden") for seq, _ in refused])
        self.refused += refused
        self.waiting = self.waiting[len(settled) :]

    @rule()
    def reopen(self) -> None:
        """Everything is there, and what was refused waits again in its old place."""
        self.spool.close()
        self.spool = Spool(Path(self.directory.name), LIMIT_BYTES)
        self.waiting = sorted(self.waiting + self.refused, key=lambda pair: pair[0])
        self.refused = []
        self.last_seq = self.waiting[-1][0] if self.waiting else 0

    @rule(after=strategies.integers(0, 30), most=strategies.integers(1, 5))
    def read(self, after: int, most: int) -> None:
        """Reading gives what stands behind a place."""
        expected = [Spooled(seq, entry.message) for seq, entry in self.waiting if seq > after][:most]
        assert self.spool.read(after, most, 1_000_000) == expected

    @invariant()
    def figures(self) -> None:
        """The figures are those of the lists."""
        kept = self.waiting + self.refused
        assert self.spool.size_bytes == sum(size_bytes(entry.message) for _, entry in kept) <= LIMIT_BYTES
        assert (self.spool.waiting, self.spool.refused) == (len(self.waiting), len(self.refused))
        assert self.spool.oldest_ms == (self.waiting[0][1].accepted_at_ms if self.waiting else None)

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.spool.close()
        self.directory.cleanup()


TestSpoolIsAList = SpoolIsAList.TestCase
TestSpoolIsAList.settings = settings(max_examples=30, stateful_step_count=20)


@pytest.mark.parametrize("commits", [1, 3, 20, 60])
def test_a_process_killed_in_mid_write_has_lost_nothing_of_what_was_taken(tmp_path: Path, commits: int) -> None:
    """2xx only when durable: after kill -9 at any point, whole appends are there, in order, without a gap."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(commits):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        taken = max([7 * commits, *map(int, writer.stdout.read().split())])
    spool = Spool(tmp_path, 1 << 30)
    assert values(spool) == [str(number) * 200 for number in range(1, spool.waiting + 1)]
    assert spool.waiting >= taken
    assert spool.waiting % 7 == 0
    spool.close()


def test_a_commit_is_on_the_disk_before_it_returns(tmp_path: Path) -> None:
    """A power cut takes nothing back: the log is synced by every commit (FULL is 2), not by the checkpoint."""
    spool = Spool(tmp_path, LIMIT_BYTES)
    assert spool._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert spool._db.execute("PRAGMA synchronous").fetchone() == (2,)
    spool.close()


def test_a_spool_has_one_owner(tmp_path: Path) -> None:
    """Two would send its messages in turns; the second is told what to do."""
    spool = Spool(tmp_path, LIMIT_BYTES)
    opening = (
        "import sys; from pathlib import Path; from pipeline.gateway.spool import Spool; Spool(Path(sys.argv[1]), 1)"
    )
    second = subprocess.run([sys.executable, "-c", opening, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "SpoolInUse" in second.stderr
    assert "a data directory of its own" in second.stderr
    with pytest.raises(SpoolInUse):
        Spool(tmp_path, LIMIT_BYTES)
    spool.close()
    Spool(tmp_path, LIMIT_BYTES).close()


def test_a_large_message_is_read_alone(tmp_path: Path) -> None:
    """Memory is bounded while draining: a page has few bytes, but never nothing."""
    spool = Spool(tmp_path, 10_000)
    spool.append([text("a" * 3000), text("b" * 100), text("c" * 100)])
    assert [record.seq for record in spool.read(0, 10, 1_000)] == [1]
    assert [record.seq for record in spool.read(1, 10, 1_000)] == [2, 3]
    spool.close()


def test_the_file_stays_near_the_limit_and_gives_the_disk_back(tmp_path: Path) -> None:
    """The limit is one of disk space; beside it stands SQLite's log of a few MB."""
    limit_bytes = 20 * 1_048_576
    spool = Spool(tmp_path, limit_bytes)
    many = [text("x" * 500)] * 500
    while spool.free_bytes >= sum(size_bytes(entry.message) for entry in many):
        spool.append(many)
    with pytest.raises(SpoolFull):
        spool.append(many)
    spool._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert 0.9 * limit_bytes < (tmp_path / "spool.sqlite3").stat().st_size < 1.05 * limit_bytes
    spool.settle(spool.last_seq)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1_000_000
    spool.close()


def test_a_disk_that_takes_no_more_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    """ENOSPC and its like: the process lives, what was taken before is there, now and for the next process."""
    writer = subprocess.run(
        [sys.executable, "-c", CRAMPED_WRITER, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert writer.returncode == 0, writer.stderr
    taken, why = writer.stdout.split(" ", 1)
    assert int(taken) > 5
    assert "does not work" in why
    spool = Spool(tmp_path, 1 << 30)
    assert spool.waiting == int(taken)
    spool.close()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "page"])
def test_a_damaged_file_is_set_aside_whole_and_an_empty_one_begun(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Never a crash loop, never silent: a line in the log, a call, and the bytes kept for a rescue."""
    spool = Spool(tmp_path, 1_000_000)
    spool.append([text("x" * 500)] * 100)
    spool.close()
    file = tmp_path / "spool.sqlite3"
    whole = file.read_bytes()
    broken = {
        "garbage": b"x" * 9000,
        "truncated": whole[: len(whole) // 2],
        "page": whole[:4096] + b"x" * 8192 + whole[12288:],
    }
    file.write_bytes(broken[damage])
    found: list[Path] = []
    spool = Spool(tmp_path, 1_000_000, found.append)
    assert found == [tmp_path / "spool.sqlite3.damaged-1"]
    assert found[0].read_bytes() == broken[damage]
    assert str(found[0]) in caplog.text
    spool.append([text("after")])
    assert values(spool) == ["after"]
    spool.close()


def test_damage_that_shows_while_we_run_ends_nothing(tmp_path: Path) -> None:
    """The call under way fails and may be tried again; the next ones have an empty spool; places go on upwards."""
    spool = Spool(tmp_path, 10_000_000)
    spool.append([text("x" * 500)] * 5000)
    spool.close()
    found: list[Path] = []
    spool = Spool(tmp_path, 10_000_000, found.append)
    spool._db.execute("PRAGMA cache_size = 10")
    # Not closed again, because a process that closes a file loses its locks on it.
    os.pwrite(os.open(tmp_path / "spool.sqlite3", os.O_WRONLY), b"x" * 2_000_000, 4096)
    with pytest.raises(SpoolUnavailable):
        spool.read(*EVERYTHING)
    assert len(found) == 1
    spool.append([text("after")])
    assert spool.read(*EVERYTHING) == [Spooled(5001, text("after").message)]
    spool.close()
