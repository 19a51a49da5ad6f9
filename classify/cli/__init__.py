"""Command ``classify``: parse, call one library function, print."""
