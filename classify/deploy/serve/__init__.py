"""The local page and its JSON endpoint."""
