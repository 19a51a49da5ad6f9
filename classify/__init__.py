"""Heads fitted on cached features, compared without leaks, and used to grade new images."""
