"""Canonical JSON and SHA-256: one byte string for one value, so that keys mean something."""

from __future__ import annotations

import hashlib
import json
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
