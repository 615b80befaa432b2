"""The gateway: events over HTTP in, none lost that was accepted."""
