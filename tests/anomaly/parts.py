"""The simulated month of one project, beside its counts: parts of wholes, single sessions, amendments, limits."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from pipeline.metering.anomaly.alert import Alert
from pipeline.metering.anomaly.readings import (
    Amended,
    Connected,
    Hovering,
    Lengths,
    Part,
    Readings,
    Share,
    ShareKey,
)
from pipeline.metering.limits import Limit
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from tests.anomaly.measure import METER, RULES, Book, series
from tests.anomaly.month import BEGIN_MS, DAYS, END_MS, HOUR, LEARNED_DAYS, START_MS, Array, Counts, Label, calm, ms_of

#: Detectors of shares: the usual part, that while something is wrong, how much it varies from hour to hour (of 1), and
#: how many of the wholes a session is; dead letters are of all projects.
_SHARES: Final[dict[str, tuple[float, float, float, int]]] = {
    "flapping": (0.04, 0.6, 0.35, 1),
    "rounding_loss": (0.12, 0.5, 0.1, 5),
    "clock_skew": (0.002, 0.15, 0.35, 1),
    "duplicates": (0.01, 0.5, 0.35, 4),
    "dead_letters": (0.0005, 0.1, 0.35, 40),
    "reconciliation": (0.002, 0.3, 0.35, 1),
    "ends_without_starts": (0.003, 0.2, 0.35, 1),
}
_LIMIT: Final = Limit(METER, "day", None, 1_000 * MS_PER_MINUTE, "minute", MS_PER_MINUTE)
_FIVE_MINUTES: Final = 5 * MS_PER_MINUTE
#: An excess of fewer standard deviations of an hour is hidden by chance.
_HIDDEN: Final = 6


def _share(chance: np.random.Generator, detector: str, totals: Array) -> tuple[Array, list[Label]]:
    """Return the counted part of each five minutes, and what was planted: three stretches of one to three hours."""
    typical, wrong, spread, _ = _SHARES[detector]
    varied = np.repeat(chance.lognormal(0, spread, len(totals) // 12), 12)
    usual = typical * chance.uniform(0.5, 2)
    share = np.minimum(usual * varied, 0.5)
    labels = []
    for day in chance.choice(np.arange(LEARNED_DAYS, DAYS - 1), 3, replace=False):
        first = int(day) * 288 + int(chance.integers(0, 250))
        span = slice(first, first + int(chance.integers(12, 36)))
        share[span] = wrong * chance.uniform(0.8, 1.2)
        # Where hardly anything happens, hardly anything can be seen; nor where chance alone moves an hour as far.
        an_hour = totals[span].mean() * 12
        is_hidden = an_hour * (wrong - usual) ** 2 < _HIDDEN**2 * usual * (1 - usual)
        is_hard = bool(totals[span].sum() * wrong < 60 or is_hidden)
        since_ms, until_ms = (ms_of(5 * number) for number in (span.start, span.stop))
        labels.append(Label(detector, detector, since_ms, until_ms, is_hard))
    return chance.binomial(totals, np.minimum(share, 1)), labels


def shares(counts: Counts, seed: int) -> Iterator[tuple[str, list[Label], list[Alert], dict[str, int]]]:
    """Yield for each detector of shares what was planted and what was raised."""
    chance = np.random.default_rng(seed + 1_000_000)
    sessions = counts.connects.reshape(-1, 5).sum(1)
    for detector, (*_, wholes) in _SHARES.items():
        totals = sessions * wholes
        some, labels = _share(chance, detector, totals)
        hourly = [
            Part(int(a), int(b))
            for a, b in zip(some.reshape(-1, 12).sum(1), totals.reshape(-1, 12).sum(1), strict=True)
        ]
        summed = [np.concatenate(([0], np.cumsum(values))) for values in (some, totals)]
        is_of_meter = detector in ("flapping", "rounding_loss")
        key: ShareKey = (detector, counts.name, METER if is_of_meter else detector)
        book = Book(RULES)
        for number in range(LEARNED_DAYS * 288 + 1, DAYS * 288):
            latest = Part(*(int(values[number] - values[number - 12]) for values in summed))
            midnight = number // 288 * 24
            past = hourly[midnight - 14 * 24 : midnight][::-1]
            book.look(Readings(BEGIN_MS + number * _FIVE_MINUTES, shares={key: Share(latest, past)}))
        plain = [label._replace(subject="" if is_of_meter else label.subject) for label in labels]
        yield detector, plain, book.raised, book.resolved


def servers(name: str, seed: int) -> tuple[list[Label], list[Alert], dict[str, int]]:
    """Return planted silences of a media server in a month of its own: it is down, or its webhooks are lost.

    A session has a handful of events where it begins and where it ends.
    """
    chance = np.random.default_rng(seed + 5_000_000)
    usual, connects, connected = calm(chance)
    ends = connects - np.diff(connected, append=connected[-1])
    events = chance.poisson(3 * connects + 2 * np.maximum(ends, 0))
    labels = []
    for day in chance.choice(np.arange(LEARNED_DAYS, DAYS - 1), 3, replace=False):
        minute = int(day) * 24 * HOUR + int(chance.integers(0, 24 * HOUR))
        span = slice(minute, minute + int(chance.integers(30, 240)))
        # As for projects: where less than a session a minute is usual, hours are quiet.
        is_hard = bool(usual[span].sum() < span.stop - span.start)
        events[span] = 0
        labels.append(Label("server_silent", name, ms_of(span.start), ms_of(span.stop), is_hard))
    book = Book(RULES)
    for at_ms, found in series(events):
        book.look(Readings(at_ms, servers={name: found}))
    return labels, book.raised, book.resolved


def long_sessions(counts: Counts, seed: int) -> tuple[list[Label], list[Alert], dict[str, int]]:
    """Return planted sessions without end, among those whose lengths have a long tail."""
    chance = np.random.default_rng(seed + 2_000_000)
    median_ms = chance.uniform(2, 10) * MS_PER_MINUTE
    known = np.sort(chance.lognormal(np.log(median_ms), 1.0, 2_000))
    lengths = {(counts.name, METER): Lengths(2_000, int(known[500]), int(known[1_500]))}
    # Far longer than others: from the longest of a million of its kind on, whatever the detector's fence is.
    longest_ms = max(int(median_ms * np.exp(4.75)), 4 * MS_PER_HOUR)
    sessions: list[tuple[str, int, int]] = []
    labels = []
    for day in range(LEARNED_DAYS - 1, DAYS - 2):
        count = int(min(counts.connects[day * 24 * HOUR : (day + 1) * 24 * HOUR].sum(), 5_000))
        for length_ms in chance.lognormal(np.log(median_ms), 1.0, count):
            if length_ms > 2 * MS_PER_HOUR:
                began_ms = BEGIN_MS + day * MS_PER_DAY + int(chance.integers(0, MS_PER_DAY))
                sessions.append((f"S{len(sessions)}", began_ms, began_ms + int(length_ms)))
        if day >= LEARNED_DAYS and chance.random() < 0.2:
            began_ms = BEGIN_MS + day * MS_PER_DAY + int(chance.integers(0, MS_PER_DAY))
            ended_ms = began_ms + int(longest_ms * chance.uniform(2, 5))
            sessions.append((name := f"N{len(sessions)}", began_ms, ended_ms))
            labels.append(Label("long_session", name, began_ms + longest_ms, ended_ms))
    book = Book(RULES)
    for at_ms in range(START_MS, END_MS, _FIVE_MINUTES):
        open_now = [
            Connected(counts.name, METER, "RM", "", name, began_ms, at_ms, is_open=True)
            for name, began_ms, ended_ms in sessions
            if began_ms + MS_PER_HOUR < at_ms < ended_ms
        ]
        book.look(Readings(at_ms, lengths=lengths, long=open_now))
    return labels, book.raised, book.resolved


def twins(name: str, seed: int) -> tuple[list[Label], list[Alert], dict[str, int]]:
    """Return planted twins among reconnects, whose old connection lasts a little longer."""
    chance = np.random.default_rng(seed + 3_000_000)
    pairs, labels = [], []
    for number in range(600):
        began_ms = int(chance.integers(START_MS, END_MS - MS_PER_DAY))
        is_planted = number < 6
        overlap_ms = int((chance.uniform(5, 60) if is_planted else min(chance.exponential(0.3), 2.5)) * MS_PER_MINUTE)
        pairs.append((f"I{number}", began_ms, began_ms + overlap_ms))
        if is_planted:
            labels.append(Label("overlapping_twins", f"RM/I{number}", began_ms, began_ms + overlap_ms))
    book = Book(RULES)
    for at_ms in range(START_MS, END_MS, _FIVE_MINUTES):
        found = []
        for identity, began_ms, until_ms in pairs:
            if began_ms < at_ms < until_ms + 90 * MS_PER_MINUTE:
                first = Connected(
                    name, METER, "RM", identity, "A", began_ms - MS_PER_HOUR, min(until_ms, at_ms), is_open=False
                )
                found += [first, first._replace(session="B", began_ms=began_ms, ended_ms=at_ms, is_open=True)]
        book.look(Readings(at_ms, twins=found))
    return labels, book.raised, book.resolved


def conduct(name: str, seed: int) -> tuple[list[Label], list[Alert], dict[str, int]]:
    """Return planted days with many amendments, and days of usage just below a limit."""
    chance = np.random.default_rng(seed + 4_000_000)
    amended = chance.poisson(chance.uniform(0, 2.5), DAYS)
    used = chance.uniform(0.1, 1.0, DAYS) * chance.uniform(0.3, 1.0)
    day = int(chance.integers(LEARNED_DAYS, DAYS - 10))
    amended[day] = int(chance.integers(16, 60))
    near = int(chance.integers(LEARNED_DAYS, DAYS - 8))
    used[near : near + 6] = chance.uniform(0.93, 0.999, 6)
    begin_of = [BEGIN_MS + number * MS_PER_DAY for number in range(DAYS)]
    labels = [
        Label("frequent_amendments", "", begin_of[day], begin_of[day] + 2 * MS_PER_DAY),
        Label("limit_hovering", "day", begin_of[near], begin_of[near] + 8 * MS_PER_DAY),
    ]
    book = Book(RULES)
    for at_ms in range(START_MS, END_MS, MS_PER_HOUR):
        today = (at_ms - BEGIN_MS) // MS_PER_DAY
        periods = [
            (begin_of[number], int(used[number] * 1_000) * MS_PER_MINUTE) for number in range(today - 1, today - 6, -1)
        ]
        usual = int(np.median(amended[today - 28 : today - 1]))
        found = Amended(int(amended[today - 1]), usual, "S", 1)
        hovering = [Hovering(name, _LIMIT, periods)]
        book.look(Readings(at_ms, amended={name: found}, hovering=hovering))
    return labels, book.raised, book.resolved
