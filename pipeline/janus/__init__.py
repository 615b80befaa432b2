"""Janus: batches of its event handler, as canonical events."""
