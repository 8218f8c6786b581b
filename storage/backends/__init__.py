"""Where a store's bytes lie: one file per kind of place."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from storage.backends.base import Backend, without_secrets
from storage.errors import InvalidInput

__all__ = ["Backend", "open_backend"]


def open_backend(url: str) -> Backend:
    """Open the place a store URL names. Raises InvalidInput for a scheme that is not known."""
    scheme = urlsplit(url).scheme
    if scheme == "file":
        from storage.backends.local import LocalBackend

        return LocalBackend(Path(unquote(url.removeprefix("file://"))))
    if scheme == "s3":
        from storage.backends.s3 import S3Backend

        return S3Backend(url)
    raise InvalidInput(
        f"store {without_secrets(url)!r}: expected file:///path, file://./path or s3://bucket/prefix, found the scheme "
        f"{scheme or 'none'!r}; set `store` in the config's [settings] or GAZEFLOW_STORE"
    )
