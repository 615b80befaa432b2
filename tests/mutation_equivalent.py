"""Mutants of the core that behave like it, with the reason: by the name that `python -m tests.mutation` prints."""

from typing import Final

_STAND_IN: Final = "of the stand-in for no amendment only start, end and void are read"
_TYPE_ALONE: Final = "a type for the checker; the values are written where they are used"
_YEARS_2000: Final = "no time of an event is before the year 2000, so any small number is below the one beside it"
_REFUSED_BEFORE: Final = "the condition before it has refused a unit_size below 1 by then"

_DIGITS_ALONE: Final = "what is stripped is a decimal's text: it has only digits, a point and a sign"
_OWN_NAME: Final = "what a history is remembered under: any name serves that no other has"
_CUT_OFF: Final = "what is too much is cut off in the end"
_BEFORE_ALL: Final = "of a mark for what lies before every exact hour only that is needed"
_EMPTY: Final = "where no hour is earlier than that the span is empty in any case"
_FINITE: Final = "the condition before it has refused what is not finite: its exponent is an integer"
_HAS_AN_END: Final = "a tier with others behind it ends beyond 0, or it is refused"
_HALF: Final = "what raises an alert would keep one open: half of it is enough for that"
_TWICE: Final = "of two equal entries in the queue the second is passed over"
_BELOW_LEAST: Final = "where the upper quartile is 0 the fence is below least_minutes in any case"
_NO_OVERLAP: Final = "what does not overlap does so for less than overlap_minutes, which are 1 at least"
_ASKED_AGAIN: Final = "_is_high asks the same again, and of nothing there are too few"
_AS_MANY: Final = "there is one of each for every hour"
_NOT_TODAY: Final = "any day serves that is not the first one looked at"

_WIDE_ENOUGH: Final = "no amount has so many digits"
_NO_MINUS_ZERO: Final = "the only number in between is 0, an integer without a sign"

EQUIVALENT: Final[dict[str, str]] = {
    "timeline: 0 -> 1": _STAND_IN,
    "timeline: 0 -> -1": _STAND_IN,
    "timeline: '' -> '~'": _STAND_IN,
    "timeline: '' -> '~' #2": _STAND_IN,
    "rollup: 'open' -> 'open~'": _TYPE_ALONE,
    "rollup: 'settled' -> 'settled~'": _TYPE_ALONE,
    "meters.Meter: '' -> '~' #2": "the meaning is for people, and nothing is computed from it",
    "meters.Meter._is_exact: return False -> return None": _REFUSED_BEFORE,
    "meters.Meter._is_exact: False -> True": _REFUSED_BEFORE,
    "events.check_window: 0 -> -1": _YEARS_2000,
    "events.check_window: 0 -> 1 #2": _YEARS_2000,
    "events.check_window: 0 -> -1 #2": _YEARS_2000,
    "money: 120 -> 121": _WIDE_ENOUGH,
    "money: 120 -> 119": _WIDE_ENOUGH,
    "money.to_minor_units: numerator < 0 -> numerator <= 0": _NO_MINUS_ZERO,
    "money.to_minor_units: 0 -> 1": _NO_MINUS_ZERO,
    "plans: 'graduated' -> 'graduated~' #2": "where all is included no tier is looked at",
    "counted.reported_by_hour: True -> False": "the reports of one subject have as many counters each",
    "events.check_window: 0 -> 1 #3": _YEARS_2000,
    "anomaly.alert: 'open' -> 'open~'": _TYPE_ALONE,
    "anomaly.alert: 'resolved' -> 'resolved~'": _TYPE_ALONE,
    "anomaly.alert.decimal: '0' -> '0~'": _DIGITS_ALONE,
    "anomaly.alert.decimal: '.' -> '.~'": _DIGITS_ALONE,
    "anomaly.cost.cost: account is None or prices is None or meter is None -> "
    "prices is None or meter is None": "without an account there are no prices",
    "anomaly.cost.cost: '0' -> '0~' #2": _DIGITS_ALONE,
    "anomaly.cost.cost: '.' -> '.~' #2": _DIGITS_ALONE,
    "anomaly.detect.Detectors.__init__: 0 -> 1": _NOT_TODAY,
    "anomaly.detect.Detectors.__init__: 0 -> -1": _NOT_TODAY,
    "anomaly.detect.Detectors._activity: 'connects' -> 'connects~'": _OWN_NAME,
    "anomaly.detect.Detectors._activity: 'active' -> 'active~'": _OWN_NAME,
    "anomaly.detect.Detectors._server: 'events' -> 'events~'": _OWN_NAME,
    "anomaly.detect.Detectors._reported: 'reported' -> 'reported~'": _OWN_NAME,
    "anomaly.detect.Detectors._shares: 'Detector' -> 'Detector~'": "a cast is for the type checker",
    "anomaly.detect.Detectors._baselines: len(usual) < WINDOWS -> len(usual) <= WINDOWS": _CUT_OFF,
    "limits: 'hour' -> 'hour~'": _TYPE_ALONE,
    "limits: 'day' -> 'day~'": _TYPE_ALONE,
    "limits: 'month' -> 'month~'": _TYPE_ALONE,
    "limits: 'now' -> 'now~'": _TYPE_ALONE,
    "limits: '50' -> '50~'": _TYPE_ALONE,
    "limits: '80' -> '80~'": _TYPE_ALONE,
    "limits: '100' -> '100~'": _TYPE_ALONE,
    "limits: 'hard' -> 'hard~'": _TYPE_ALONE,
    "limits: 'under' -> 'under~'": _TYPE_ALONE,
    "limits: 'reached' -> 'reached~'": _TYPE_ALONE,
    "limits: 'exceeded' -> 'exceeded~'": _TYPE_ALONE,
    "limits: 80 -> 81": _WIDE_ENOUGH,
    "limits: 80 -> 79": _WIDE_ENOUGH,
    "anomaly.baseline.History.__init__: for hour_ms in hours if hour_ms < until_ms -> for hour_ms in hours": _EMPTY,
    "anomaly.baseline.History.__init__: hour_ms < until_ms -> hour_ms <= until_ms": _EMPTY,
    "meters: 80 -> 81": _WIDE_ENOUGH,
    "meters: 80 -> 79": _WIDE_ENOUGH,
    "plans_file._Table.number: not 0 <= number < PRICE_LIMIT or not isinstance(exponent, int) or "
    "-exponent > MOST_DECIMALS -> not 0 <= number < PRICE_LIMIT or -exponent > MOST_DECIMALS": _FINITE,
    "plans_file._tariff: tiers[-1].up_to or Decimal(0) -> tiers[-1].up_to": _HAS_AN_END,
    "plans_file._tariff: 0 -> 1 #2": _HAS_AN_END,
    "plans_file._tariff: 0 -> -1 #2": _HAS_AN_END,
    "limits.period: 31 -> 32": "the 32nd day after a month's first lies in the next one too",
    "anomaly.rates._rise: not is_new and (not any((_is_high(*one, rule, _KEEP_PERCENT) "
    "for one in known[:CALM_WINDOWS]))) -> not any((_is_high(*one, rule, _KEEP_PERCENT) "
    "for one in known[:CALM_WINDOWS]))": _HALF,
    "anomaly.rates._rise: True -> False": "windows and baselines are as many",
    "tally.Tally._is_past: 0 -> 1": _YEARS_2000,
    "tally.Tally._is_past: 0 -> -1": _YEARS_2000,
    "tally.Tally._is_past: 0 -> 1 #2": _YEARS_2000,
    "tally.Tally._is_past: 0 -> -1 #2": _YEARS_2000,
    "tally.Tally._is_past: 0 -> 1 #3": _YEARS_2000,
    "tally.Tally._is_past: 0 -> -1 #3": _YEARS_2000,
    "tally.Tally._renew: new.due_ms < new.queued_ms -> new.due_ms <= new.queued_ms": _TWICE,
    "anomaly.rates.fall: not is_new and (not _is_low(observed, expected, lack, rule, _KEEP_PERCENT)) -> "
    "not _is_low(observed, expected, lack, rule, _KEEP_PERCENT)": _HALF,
    "anomaly.rates.silence: 0 -> -1": "what is below nothing is as rare as nothing",
    "anomaly.sessions.fence_ms: 1 -> 2 #2": _BELOW_LEAST,
    "anomaly.sessions.fence_ms: 1 -> 0 #2": _BELOW_LEAST,
    "anomaly.sessions.twins: for other in ordered[number + 1:] if other.began_ms < one.ended_ms -> "
    "for other in ordered[number + 1:]": _NO_OVERLAP,
    "anomaly.sessions.twins: other.began_ms < one.ended_ms -> other.began_ms <= one.ended_ms": _NO_OVERLAP,
    "anomaly.shares.share: some * 100 < rule.least * _KEEP_PERCENT or not total -> "
    "some * 100 < rule.least * _KEEP_PERCENT and (not total)": _ASKED_AGAIN,
    "anomaly.shares.share: some * 100 < rule.least * _KEEP_PERCENT or not total -> not total": _ASKED_AGAIN,
    "anomaly.shares.share: some * 100 < rule.least * _KEEP_PERCENT or not total -> "
    "some * 100 < rule.least * _KEEP_PERCENT": _ASKED_AGAIN,
    "anomaly.shares.share: 100 -> 101": _ASKED_AGAIN,
    "anomaly.shares.share: rule.least * _KEEP_PERCENT -> rule.least // _KEEP_PERCENT": _ASKED_AGAIN,
    "anomaly.shares.share: not is_new and (not _is_high(found.latest, usual, rule, _KEEP_PERCENT)) -> "
    "not _is_high(found.latest, usual, rule, _KEEP_PERCENT)": _HALF,
    "anomaly.baseline.History.__init__: True -> False": _AS_MANY,
    "anomaly.baseline.History.__init__: True -> False #2": _AS_MANY,
    "tally: 0 -> 1": _BEFORE_ALL,
    "tally: 0 -> -1": _BEFORE_ALL,
    "pricing.price: 0 -> -1": "no band begins below 0, so where the first hour begins is not seen",
}
