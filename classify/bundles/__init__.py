"""A fitted head with all it needs to grade new images, as a folder: JSON and the head, no pickle."""
