"""What is known of reports: where each join begins, and that anything known counts as such."""

import pytest

from pipeline.metering.quantities import Held, Quantities, Recorded, Transferred
from tests.metering.builders import Document, clock, event, facts_of, parsed, sampled


def test_what_nobody_reported_is_at_the_bottom_of_its_join() -> None:
    """R10: a maximum of numbers begins at 0, of texts at '', a union with nothing."""
    assert Transferred() == (0, 0)
    assert Recorded() == (0, "", "", "", "", "", "", "", 0)
    assert Held() == (frozenset(), frozenset())


@pytest.mark.parametrize(
    ("document", "is_known"),
    [
        (sampled("14:00:00", bytes_in=0), True),
        (sampled("14:00:00", bytes_out=0), True),
        (event("usage.recorded", "14:00:00", project="acme", meter="tts_characters", quantity=0), True),
        (event("number.acquired", "14:00:00", project="acme", number="+1"), True),
        (event("number.released", "14:00:00", project="acme", number="+1"), True),
        (sampled("14:00:00"), False),
        (event("job.ended", "14:00:00", project="acme", room="RM_1", job="AJ_1"), False),
    ],
)
def test_anything_that_is_reported_is_something_known(document: Document, *, is_known: bool) -> None:
    """A report of nothing too: that it was made may have to be stored."""
    quantities = facts_of([parsed(document)]).quantities
    assert bool(quantities) is is_known
    again = Quantities()
    again.observe(parsed(document))
    assert again == quantities


def test_reports_of_a_session_lie_by_its_hours() -> None:
    """R13: of each hour the largest, each direction for itself."""
    log = [sampled("14:59:59.999", bytes_in=5, bytes_out=1), sampled("14:00:00", bytes_in=1, bytes_out=7)]
    quantities = facts_of(map(parsed, [*log, sampled("15:00:00", bytes_in=9)])).quantities
    assert [*quantities.of_sessions()] == [
        (("acme", "RM_1", "PA_1"), {clock("14:00:00"): Transferred(5, 7), clock("15:00:00"): Transferred(9, 0)})
    ]
