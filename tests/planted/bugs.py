"""Mistakes that a metering pipeline is prone to, each as a small change of our source and the test that notices it.

Applied by tests/test_planted_bugs.py to a copy of the tree. The texts are exact and occur once in their files: one
that is gone fails loudly, and then the bug is planted anew where the code went, not removed.
"""

from typing import Final

from tests.planted.around_the_core import AROUND
from tests.planted.in_the_core import CORE
from tests.planted.slow import SLOW

BUGS: Final = (*CORE, *AROUND, *SLOW)
