"""What a planted bug is: a small change of our source, and the test that has to notice it."""

from typing import NamedTuple


class Bug(NamedTuple):
    """A mistake: its name, the file, what is replaced by what, and the test that has to fail.

    A slow one needs a broker or a store filled with a day, and is planted when all are.
    """

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]
    test: str
    is_slow: bool = False
