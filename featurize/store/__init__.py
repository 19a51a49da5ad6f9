"""The feature store, format version 1: reader, writer, parts in progress, checks."""
