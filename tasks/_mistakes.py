"""What is wrong with something that people wrote, in our own words: what was expected, and what is near."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ValidationError

from storage.errors import InvalidInput


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was most likely meant, as a question; all of them where none is near."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"


def explained(error: ValidationError, model: type[BaseModel], where: str) -> InvalidInput:
    """The first thing wrong with a table: which key, what was expected, what is near."""
    first = error.errors()[0]
    key = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        known = fields_at(model, first["loc"][:-1])
        return InvalidInput(f"{where}: unknown key {key!r}; {nearest(str(first['loc'][-1]), known)}")
    return InvalidInput(f"{where}: {key}: {first['msg']}, found {first.get('input')!r}")


def fields_at(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The keys of a table inside a model's; none where there is a value."""
    for part in loc:
        inner = model.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
