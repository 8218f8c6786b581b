"""Canonical JSON, SHA-256 and time: one form for one value, so that keys and records mean something."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Return the one JSON form of a value: sorted keys, no white space, UTF-8; NaN and infinity refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def pretty_json(value: Any) -> bytes:
    """Return the same value for people to read; as deterministic, but never hashed."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    return sha256(canonical_json(value))


def now() -> str:
    """The time, UTC, to the second, as records state it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
