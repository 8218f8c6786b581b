"""Generate a small data set in a published layout, for trials without downloads.

`generate` is what the config's `generate` table of a data set calls. No format of its own: the readers of
the formats below read what it writes.
"""

from __future__ import annotations

import difflib
import inspect
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from storage.datasets._writers import write_fixation_table, write_imagenet, write_osie, write_salicon
from storage.errors import InvalidInput

VERSION = 1  # of what the writers make: raised when the same options give other bytes
RECORD = ".generated.json"
WRITERS: Mapping[str, Callable[..., None]] = {
    "fixation_table": write_fixation_table,
    "imagenet": write_imagenet,
    "osie": write_osie,
    "salicon": write_salicon,
}

__all__ = ["generate", "write_fixation_table", "write_imagenet", "write_osie", "write_salicon"]


def generate(format: str, root: str | Path, options: Mapping[str, Any]) -> bool:
    """Write a procedural data set to `root` unless it is there already; return whether it was written.

    Options are the writer's arguments: images (train_per_class and val_per_class for imagenet), seed, size
    [width, height], observers, and val_images for salicon. The folder appears whole or not at all: it is
    made beside as `root.partial-*`, which a killed generation leaves behind, and renamed. Of two concurrent
    generations the first wins and the other accepts its work.
    Raises InvalidInput for an unknown format or option, and when `root` was made with other options or not
    by this function; such a folder is never touched.
    """
    root = Path(root)
    expanded = _expand(format, options)
    record = {"format": format, "generator": VERSION, "options": expanded}
    if root.exists():
        _accept(root, record)
        return False
    partial = root.with_name(f"{root.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        partial.mkdir(parents=True)
        WRITERS[format](partial, **{**expanded, "size": tuple(expanded["size"])})
        (partial / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        return _publish(partial, root, record)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, root: Path, record: dict[str, Any]) -> bool:
    """Rename to the final name; when another generation was faster, accept what it made."""
    try:
        partial.rename(root)
    except OSError:
        if not root.exists():
            raise
        _accept(root, record)
        return False
    return True


def _expand(format: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a format with defaults filled in, as JSON would give them back."""
    if format not in WRITERS:
        raise InvalidInput(f"generate: expected one of the formats {', '.join(WRITERS)}, found {format!r}.")
    parameters = inspect.signature(WRITERS[format]).parameters
    known = {name: parameter.default for name, parameter in parameters.items() if name != "root"}
    for name in options.keys() - known.keys():
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
        raise InvalidInput(f"generate for {format}: unknown option {name!r}; {hint}")
    expanded = {**known, **options}
    return {name: _checked(format, name, value) for name, value in sorted(expanded.items())}


def _checked(format: str, name: str, value: Any) -> Any:
    """One option's value, or InvalidInput that names it."""
    if name == "size":
        sides = list(value) if isinstance(value, (list, tuple)) else []
        if len(sides) == 2 and all(type(side) is int and 32 <= side <= 4096 for side in sides):
            return sides
        raise InvalidInput(f"generate for {format}: size: expected two of 32 to 4096, found {value!r}.")
    least = 0 if name in ("seed", "val_images") else 1
    if type(value) is int and value >= least:
        return value
    found = "nothing" if value is inspect.Parameter.empty else repr(value)
    raise InvalidInput(f"generate for {format}: {name}: expected a whole number from {least}, found {found}.")


def _accept(root: Path, record: dict[str, Any]) -> None:
    """Raise InvalidInput unless the folder was generated with these very options."""
    try:
        found = json.loads((root / RECORD).read_text())
    except (OSError, ValueError):
        raise InvalidInput(
            f"{root}: expected a generated data set or nothing, found something without {RECORD}, so not "
            "made by gazeflow; it was left alone. Drop `generate` from the config to use it, or choose "
            "another path."
        ) from None
    if found != record:
        raise InvalidInput(
            f"{root}: expected a data set generated with the options asked for, found one made with others "
            f"({_differences(found, record)}); it was left alone. Delete {root} to generate it anew, or mend "
            "the config."
        )


def _differences(found: Any, record: dict[str, Any]) -> str:
    old, new = _flat(found), _flat(record)
    names = sorted(name for name in {**old, **new} if old.get(name) != new.get(name))
    return "; ".join(f"{name}: found {old.get(name)!r}, asked for {new.get(name)!r}" for name in names)


def _flat(record: Any) -> dict[str, Any]:
    """A record's options beside its other entries; empty for what is no record."""
    if not isinstance(record, dict) or not isinstance(record.get("options"), dict):
        return {}
    return {**record, **record["options"], "options": None}
