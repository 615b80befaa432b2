"""Dead letters: what cannot be an event, kept whole, listed and replayed."""
