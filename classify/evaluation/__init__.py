"""Metrics, intervals, paired tests and verdicts."""
