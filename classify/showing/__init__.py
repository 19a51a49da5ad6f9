"""What the command line shows of a comparison, of a fit and of grades."""
