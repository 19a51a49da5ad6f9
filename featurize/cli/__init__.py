"""The command line of featurize: parse options, call one library function, print the result."""
