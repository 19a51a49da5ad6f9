"""Metrics, confidence intervals, paired tests, verdicts and studies."""
