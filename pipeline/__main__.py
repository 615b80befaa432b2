"""`python -m pipeline` is `roommeter`."""

from pipeline.cli import main

main(prog_name="roommeter")
