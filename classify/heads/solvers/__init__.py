"""Losses, solvers, scaling of streams and temperature scaling for the heads."""
