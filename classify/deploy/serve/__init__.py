"""Web page and JSON endpoint that predict grades with one bundle."""

from __future__ import annotations

from dataclasses import dataclass

FILES_PER_REQUEST = 4  # files of the maximum size that fit into a request
BUFFERED_REQUESTS = 8  # requests of the maximum size that fit into the buffers


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on what a client may send."""

    max_upload: int = 25_000_000  # bytes per file
    max_pixels: int = 200_000_000  # pixels per image
    rate: int = 1200  # requests per minute and client address

    @property
    def max_request(self) -> int:
        """Bytes per request."""
        return FILES_PER_REQUEST * self.max_upload

    @property
    def max_buffered(self) -> int:
        """Bytes of all buffered requests; above it, further requests are received one at a time."""
        return BUFFERED_REQUESTS * self.max_request
