"""Export of a bundle as one network for other runtimes: pixels in, probabilities out."""
