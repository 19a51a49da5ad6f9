"""Command ``featurize``: parse, call one library function, print."""
