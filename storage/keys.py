"""Names: the key of an image, and the names that people give.

A key is the image's path without its extension, in a form that every tar, object store and file system
takes and that webdataset does not split. Normalised to NFC, letters, digits and `_ - /` and space stay;
every other character becomes `%XX` for each of its UTF-8 bytes. `%` itself is escaped, so two paths share
a key only when they differ in nothing but the extension or the Unicode normalisation.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from storage.errors import InvalidInput

MAX_KEY_BYTES = 200

_PLAIN = re.compile(r"[A-Za-z0-9_ -]+(/[A-Za-z0-9_ -]+)*")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def sample_key(relative_path: str) -> str:
    """Return the key of the image at `relative_path` ("/"-separated, with its extension).

    The extension is what follows the last dot of the base name; a base name that begins with its only dot
    has none. Raises InvalidInput for an empty path or part, a part "." or "..", a name that is not UTF-8
    and a key above 200 bytes.
    """
    folder, slash, base = relative_path.rpartition("/")
    stem, dot, _ = base.rpartition(".")
    return stem_key(folder + slash + (stem if dot and stem.strip(".") else base), relative_path)


def stem_key(stem: str, source: str | None = None) -> str:
    """Return the key of a path whose extension is gone already; `source` is what errors name."""
    source = stem if source is None else source
    key = stem if _PLAIN.fullmatch(stem) else _escape(stem, source)
    size = len(key.encode())
    if size > MAX_KEY_BYTES:
        raise InvalidInput(
            f"{source!r}: expected a key of at most {MAX_KEY_BYTES} bytes; found {size} in {key!r}. "
            "Shorten the name."
        )
    return key


def check_unique(keys: Iterable[tuple[str, str]]) -> None:
    """Raise InvalidInput that names both paths when two (key, path) pairs have the same key."""
    seen: dict[str, str] = {}
    for key, path in keys:
        if key in seen:
            raise InvalidInput(
                f"{seen[key]!r} and {path!r} have the same key {key!r} (a key has no extension). Rename one."
            )
        seen[key] = path


def check_name(name: str, what: str) -> str:
    """Return `name` if it may name a kind, tag or node; raise InvalidInput that says `what` it is if not."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{what} {name!r}: expected 1 to 64 of a-z, 0-9 and . _ -, the first of them a letter or a digit."
        )
    return name


def _escape(stem: str, source: str) -> str:
    try:
        text = unicodedata.normalize("NFC", stem)
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{source!r}: expected a UTF-8 name. Rename the file.") from None
    parts = text.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise InvalidInput(f"{source!r}: expected a relative path without an empty part, '.' or '..'.")
    return "/".join("".join(map(_escape_character, part)) for part in parts)


def _escape_character(character: str) -> str:
    if character.isalnum() or character in "_- ":
        return character
    return "".join(f"%{byte:02X}" for byte in character.encode())
