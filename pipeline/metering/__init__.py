"""The core: the metering rules (R1 ...) as pure functions.

No input or output, clock, float, await or client library here: time is an argument,
quantities are integers (milliseconds, bytes, increments), and state is a join.
"""
