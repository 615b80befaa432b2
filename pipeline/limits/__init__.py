"""Limits: watched in the stream, told once, served from memory."""
