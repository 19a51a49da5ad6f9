"""Jobs of the commands ``classify compare`` and ``classify fit``."""
