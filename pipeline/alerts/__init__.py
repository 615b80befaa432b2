"""Alerts on anomalous usage: what reads facts, decides with others, and tells. Detectors are metering.anomaly."""
