"""Intervals of figures and tests of differences, over groups of test entries. Knows no heads and no files."""
