"""How hard the laws are tried: 200 random logs for each by default, as many as ROOMMETER_TEST_EXAMPLES says.

`ROOMMETER_TEST_EXAMPLES=20000 pytest tests/metering` is a long run; the failing log is printed, shrunk to the least.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "roommeter",
    max_examples=int(os.environ.get("ROOMMETER_TEST_EXAMPLES", "200")),
    deadline=None,  # a shared machine may stall: slowness is no broken law
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("roommeter")
