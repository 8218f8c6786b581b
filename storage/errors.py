"""What can go wrong, grouped by what the caller does about it.

    GazeflowError            exit code 1   something failed; read the message
    ├── InvalidInput         exit code 2   mend the input (config, option, data set), then run again
    ├── NotFound             exit code 3   the named object is not there: look it up
    ├── Integrity            exit code 4   bytes are not what their record says: verify, then rerun
    │   └── Format           exit code 4   written by another release or another program
    ├── Conflict             exit code 5   someone else was first: look at what they made
    └── Transient            exit code 75  try the same call again later (alone retried)

A message names the object, what was expected, what was found, what was done and what to do next.
"""

from __future__ import annotations


class GazeflowError(Exception):
    """Base of everything gazeflow raises on purpose."""

    kind = "failed"
    exit_code = 1


class InvalidInput(GazeflowError, ValueError):
    """The config, an option or a data set is wrong: mend it and run again."""

    kind = "invalid-input"
    exit_code = 2


class NotFound(GazeflowError):
    """A named object is not there."""

    kind = "not-found"
    exit_code = 3


class Integrity(GazeflowError):
    """Bytes differ from what their record promises."""

    kind = "integrity"
    exit_code = 4


class Format(Integrity):
    """Bytes were written by another release or another program."""

    kind = "format"
    exit_code = 4


class Conflict(GazeflowError):
    """A create-only write found another writer's object."""

    kind = "conflict"
    exit_code = 5


class Transient(GazeflowError):
    """The same call may succeed later; the only kind that is retried."""

    kind = "transient"
    exit_code = 75


_KINDS: dict[str, type[GazeflowError]] = {
    c.kind: c for c in (GazeflowError, InvalidInput, NotFound, Integrity, Format, Conflict, Transient)
}


def error_from(kind: str, message: str) -> GazeflowError:
    """Rebuild an error that crossed a process border as its kind and message."""
    return _KINDS.get(kind, GazeflowError)(message)
