"""The audit: conservation laws over all that is stored, read-only."""
