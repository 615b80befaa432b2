"""Explanations: a billed minute followed down to its rule and its events."""
