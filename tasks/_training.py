"""What the training stages share: when to save."""

from __future__ import annotations

import time


class Clock:
    """Says when a checkpoint is due; the time between has no influence on the result."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the interval has passed since the last time this was true."""
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True
