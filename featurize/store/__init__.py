"""Feature store, format version 1: reader, writer, parts of unfinished runs, integrity check."""
