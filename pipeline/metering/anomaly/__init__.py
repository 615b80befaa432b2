"""Anomalies of usage: what is found, from facts as of a moment, and what there is to say when that changes.

Pure. Detectors turn readings into findings; `alert.changes` turns findings into revisions of alerts. All arithmetic
is in integers, so that two alerters, or one today and one in a year, find the same.
"""
