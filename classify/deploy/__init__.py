"""Fitted heads at work: predict, export, serve."""
