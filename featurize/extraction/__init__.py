"""Extraction of features: plan, run, assemble; verify and repair stores."""
