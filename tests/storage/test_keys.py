"""Keys: every path has one key at most, in a form that tars and webdataset take."""

import re
import unicodedata
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InvalidInput
from storage.keys import check_name, check_unique, sample_key, stem_key

CHARACTERS = st.sampled_from("aZ9_- .%\\éßЖ日 \u0301²\n'\"<&") | st.characters(exclude_categories=["Cs"])
PARTS = st.text(CHARACTERS, min_size=1, max_size=8)
PATHS = st.lists(PARTS.map(lambda part: part.replace("/", "_")), min_size=1, max_size=3).map("/".join)


def key_or_none(path: str) -> str | None:
    try:
        return sample_key(path)
    except InvalidInput:
        return None


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("n01440764/n01440764_10026.JPEG", "n01440764/n01440764_10026"),
        ("a.b.jpg", "a%2Eb"),
        ("v1.0/cat.jpg", "v1%2E0/cat"),
        ("50% off.png", "50%25 off"),
        ("no extension", "no extension"),
        (".jpg", "%2Ejpg"),
        ("a.", "a"),
        ("Cafe\u0301.jpg", "Caf\u00e9"),
        ("日本/東京.webp", "日本/東京"),
        ("a\\b\n.jpg", "a%5Cb%0A"),
        ("<script>.jpg", "%3Cscript%3E"),
    ],
)
def test_known_keys(path: str, key: str) -> None:
    assert sample_key(path) == key


@pytest.mark.parametrize(
    "path", ["", "/a.jpg", "a//b.jpg", "../a.jpg", "a/../b.jpg", "./a.jpg", "a/", "\udc80.jpg"]
)
def test_refused_paths(path: str) -> None:
    with pytest.raises(InvalidInput):
        sample_key(path)


def test_length_is_counted_in_bytes() -> None:
    assert sample_key("x" * 200 + ".jpg") == "x" * 200
    for stem in ("x" * 201, "é" * 101, "." + "." * 67 + "x"):
        with pytest.raises(InvalidInput, match="200 bytes"):
            sample_key(stem + ".jpg")


@given(PATHS)
def test_a_key_is_well_formed(path: str) -> None:
    key = key_or_none(path)
    if key is None:
        return
    assert len(key.encode()) <= 200
    assert unicodedata.is_normalized("NFC", key)
    assert all(re.fullmatch(r"(?:[^\W]|[_ -]|%[0-9A-F]{2})+", part) for part in key.split("/"))
    assert not {".", "\\", "\n", "\0"} & set(key)


@given(PATHS)
def test_a_key_gives_the_path_back_but_for_its_extension(path: str) -> None:
    """Hence two paths share a key only when they differ in the extension or the normalisation alone."""
    key = key_or_none(path)
    if key is not None:
        rest = unicodedata.normalize("NFC", path).removeprefix(unquote(key))
        assert rest != path or key == ""
        assert rest == "" or (rest.startswith(".") and not {".", "/"} & set(rest[1:]))


@given(PATHS)
def test_a_stem_without_escapes_is_its_own_key(path: str) -> None:
    key = key_or_none(path)
    if key is not None and "%" not in key:
        assert stem_key(key) == key
        assert sample_key(key + ".jpg") == key


def test_collisions_name_both_paths() -> None:
    check_unique([("a", "a.jpg"), ("b", "a.jpg")])
    with pytest.raises(InvalidInput, match=r"'a\.jpg' and 'a\.png'"):
        check_unique([("a", "a.jpg"), ("b", "b.jpg"), ("a", "a.png")])
    same = "shard.tar"
    with pytest.raises(InvalidInput):
        check_unique([("a", same), ("a", same)])


@pytest.mark.parametrize("name", ["a", "prod", "student.baseline", "2026-01-01", "x" * 64])
def test_names(name: str) -> None:
    assert check_name(name, "tag") == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "A", "a/b", "a b", "a\n", "x" * 65, "é"])
def test_refused_names(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"^tag "):
        check_name(name, "tag")
