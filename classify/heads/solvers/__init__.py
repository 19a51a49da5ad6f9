"""Losses and solvers behind the linear heads."""
