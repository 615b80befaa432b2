"""LiveKit: its webhooks, its messages and its server API, as canonical events."""
