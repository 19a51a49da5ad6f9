"""The jobs behind ``classify compare`` and ``classify fit``."""
