"""One byte string for one value."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.canonical import canonical_json, digest, pretty_json, sha256

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(
    st.characters(exclude_categories=["Cs"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcé", max_size=3), inner, max_size=4),
    max_leaves=12,
)


def shuffled(value: Any) -> Any:
    """The same value, its dicts filled in reverse order."""
    if isinstance(value, dict):
        return {k: shuffled(value[k]) for k in reversed(list(value))}
    return [shuffled(v) for v in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(VALUES)
def test_round_trip_and_order(value: Any) -> None:
    for form in (canonical_json, pretty_json):
        assert json.loads(form(value)) == value
        assert form(shuffled(value)) == form(value)
    assert digest(value) == hashlib.sha256(canonical_json(value)).hexdigest()


@settings(deadline=None)
@given(VALUES, VALUES)
def test_equal_bytes_mean_equal_values(one: Any, other: Any) -> None:
    if canonical_json(one) == canonical_json(other):
        assert one == other


def test_known_bytes() -> None:
    """Written down, because every key in every store depends on them."""
    value = {"b": [1, 1.0, 1e-07, True, None], "a": {"é": 'q"\n'}}
    assert canonical_json(value) == b'{"a":{"\xc3\xa9":"q\\"\\n"},"b":[1,1.0,1e-07,true,null]}'
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert pretty_json({"b": 1, "a": []}) == b'{\n "a": [],\n "b": 1\n}\n'


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"x": float("-inf")}])
def test_numbers_that_json_lacks_are_refused(value: Any) -> None:
    for form in (canonical_json, pretty_json):
        with pytest.raises(ValueError, match="JSON compliant"):
            form(value)


def test_sha256_takes_views() -> None:
    assert sha256(memoryview(b"abc")) == sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()
