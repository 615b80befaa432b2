"""Usage of LLMs: gateway logs, answers and OTLP metrics, as usage events."""
