"""The commands of ``classify``: each parses, calls one library function, and prints."""
