"""Dataset formats, one module each; the module's name is a config's `format = "..."`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from typing import TYPE_CHECKING, Any

from storage.errors import InvalidInput

if TYPE_CHECKING:
    from storage.datasets.base import Reader


def formats() -> list[str]:
    """Names of the formats: the public modules of this folder that define a class `Reader`."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return [name for name in names if not name.startswith("_") and _reader_class(name)]


def open_dataset(format: str, path: str, **options: Any) -> Reader:
    """Return the reader of `path` in that format, with the format's own options.

    Raises InvalidInput for a format or an option that there is none of, and for one that is missing.
    """
    known = {module.name for module in pkgutil.iter_modules(__path__)}
    cls = _reader_class(format) if format in known and not format.startswith("_") else None
    if cls is None:
        raise InvalidInput(f"dataset format {format!r}: {_nearest(format)}known are {', '.join(formats())}.")
    try:
        inspect.signature(cls).bind(path, **options)
    except TypeError as error:
        takes = ", ".join(list(inspect.signature(cls).parameters)[1:]) or "none"
        raise InvalidInput(f"dataset format {format!r}: {error}; its options are: {takes}.") from error
    reader: Reader = cls(path, **options)
    return reader


def _reader_class(name: str) -> Any:
    """The module's own `Reader`; base.py's is the contract, other modules may import it."""
    module = importlib.import_module(f"{__name__}.{name}")
    cls = getattr(module, "Reader", None)
    own = cls is not None and cls.__module__ == module.__name__
    return cls if own and not getattr(cls, "_is_protocol", False) else None


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, formats(), n=1)
    return f"did you mean {near[0]!r}? " if near else ""
