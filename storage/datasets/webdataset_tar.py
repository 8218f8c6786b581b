"""WebDataset tars: a folder of them, one, or a brace pattern such as `DIR/train-{000000..000146}.tar`.

They lie on this machine or in an object store (`s3://bucket/imagenet/train-{000000..000146}.tar`).
A sample is the members that share a name up to the first dot of the base name, as in webdataset. Its image
is the member .jpg, .jpeg, .png or .webp; its label is the number in .cls, else "label" in .json, else none.
The tars are the shards, in the order of their paths, which the fingerprint is of; a pattern that gives another
order is refused, since its shards would have other numbers under the same fingerprint. Samples keep their order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from storage.datasets._folder import IMAGE_SUFFIXES, is_hidden
from storage.datasets._places import place_of
from storage.datasets._tar import Member, members
from storage.datasets.base import File, Image
from storage.errors import InvalidInput
from storage.keys import stem_key

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_TARS = 1_000_000
_MAX_LABEL_BYTES = 16 << 20  # of a .cls or .json member


class Reader:
    """Images inside tars, which are read in place. `classes` names the labels, in their order."""

    def __init__(self, path: str, classes: list[str] | None = None) -> None:
        path = str(path).removeprefix("file://").rstrip("/")
        if path.startswith("pipe:"):
            raise InvalidInput(f"{path}: expected a folder or pattern of tars, here or in an object store (s3://).")
        self._place = place_of(path if _is_folder(path) else _literal_folder(path))
        self._names = None if _is_folder(path) else _in_order(_expand(path), self._place.root, path)
        self._classes = () if classes is None else tuple(classes)

    def files(self) -> list[File]:
        """List the tars, sorted by path. Raises NotFound when one is missing, InvalidInput for none."""
        if self._names is not None:
            return [self._place.file(name) for name in self._names]
        found = [file for file in self._place.files() if file.path.lower().endswith(".tar")]
        if not found:
            raise InvalidInput(f"{self._place.root}: expected a folder of .tar files; found none.")
        return found

    def open(self, path: str) -> BinaryIO:
        """Open a tar of the source."""
        return self._place.open(path)

    def images(self, digest: Callable[[File], str]) -> Iterator[Image]:
        """Name the images in the order of tars and members; they have no sha256 yet.

        Raises Integrity for a tar that is cut or broken; InvalidInput for a tar without images, a sample
        without an image or with two, and a label that is no class.
        """
        for shard, tar in enumerate(self.files()):
            with self.open(tar.path) as file:
                yield from self._shard(file, tar.path, shard)

    def classes(self) -> tuple[str, ...]:
        """The option `classes`; tars name none."""
        return self._classes

    def read(self, image: Image) -> bytes:
        """The image's bytes. Raises Integrity when the tar is too short for them."""
        return self._place.read(image.path, image.offset, image.size)

    def _shard(self, file: BinaryIO, path: str, shard: int) -> Iterator[Image]:
        where = f"{self._place.root}/{path}"
        samples = _samples(members(file, where), where)
        if not samples:
            raise InvalidInput(f"{where}: expected images in it; found none. Remove the tar.")
        for stem, parts in samples.items():
            image = _image(stem, parts, where)
            label = self._label(file, stem, parts, where)
            key = stem_key(stem, f"{where}:{image.name}")
            yield Image(key, path, image.offset, image.size, "", label, shard)

    def _label(self, file: BinaryIO, stem: str, parts: dict[str, Member], where: str) -> int:
        part = parts.get("cls") or parts.get("json")
        if part is None:
            return -1
        value = _number(file, part)
        if value is None and "cls" not in parts:
            return -1  # a .json member without "label"
        limit = len(self._classes) or 1 << 31
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < limit:
            raise InvalidInput(
                f"{where}: {part.name!r} gives no label; expected a whole number from 0 to "
                f"{limit - 1}; found {value!r}."
            )
        return value


def _samples(found: Iterator[Member], where: str) -> dict[str, dict[str, Member]]:
    """Members by stem, then by what follows the first dot of the base name."""
    samples: dict[str, dict[str, Member]] = {}
    for member in found:
        if any(map(is_hidden, member.name.split("/"))):
            continue
        folder, slash, base = member.name.rpartition("/")
        name, _, suffix = base.partition(".")
        parts = samples.setdefault(folder + slash + name, {})
        if parts.setdefault(suffix.lower(), member) is not member:
            raise InvalidInput(f"{where}: two members for {member.name!r}; expected one.")
    return samples


def _image(stem: str, parts: dict[str, Member], where: str) -> Member:
    images = [member for suffix, member in parts.items() if f".{suffix}" in IMAGE_SUFFIXES]
    if len(images) != 1:
        names = ", ".join(member.name for member in parts.values())
        raise InvalidInput(
            f"{where}: sample {stem!r} has {len(images)} images; expected one .jpg, .jpeg, .png or .webp "
            f"right after the first dot of its name; found {names}."
        )
    return images[0]


def _number(file: BinaryIO, member: Member) -> object:
    """What a .cls or .json member gives as the label; None for a .json member without one."""
    file.seek(member.offset)
    data = file.read(min(member.size, _MAX_LABEL_BYTES))
    try:
        if not member.name.lower().endswith(".json"):
            return int(data)
        value = json.loads(data)
        return value.get("label") if isinstance(value, dict) else None
    except (ValueError, RecursionError) as error:
        return f"{data[:20]!r}: {error}"


def _is_folder(path: str) -> bool:
    """Of a URL by its form: a folder there is nothing that can be looked up."""
    return "{" not in path and not path.lower().endswith(".tar") if "://" in path else Path(path).is_dir()


def _literal_folder(pattern: str) -> str:
    return (pattern.partition("{")[0] + "x").rpartition("/")[0] or "."


def _in_order(tars: list[str], root: str, pattern: str) -> list[str]:
    """The tars' paths below `root`. Raises InvalidInput when one comes before the one that it should follow."""
    names = [tar.removeprefix(f"{root}/") for tar in tars]
    for one, two in pairwise(names):
        if one >= two:
            raise InvalidInput(
                f"{pattern}: expected tars in the order of their paths, each once, which is the order of the shards; "
                f"found {two!r} after {one!r}; nothing was read. Write the pattern in that order or name the folder; "
                "give numbers of one length, with leading zeros."
            )
    return names


def _expand(pattern: str) -> list[str]:
    """Expand the braces of a pattern, as bash does, the first of them slowest."""
    match = None if Path(pattern).is_file() else _BRACES.search(pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for middle in _alternatives(match[1], pattern) for name in _expand(before + middle + after)]


def _alternatives(body: str, pattern: str) -> list[str]:
    match = _RANGE.fullmatch(body)
    if match is None:
        return body.split(",")
    first, last = int(match[1]), int(match[2])
    if abs(last - first) >= _MAX_TARS:
        raise InvalidInput(f"{pattern}: names more than {_MAX_TARS} tars. Mend the pattern.")
    width = max(map(len, match.groups())) if any(len(g) > 1 and g[0] == "0" for g in match.groups()) else 0
    step = 1 if first <= last else -1
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]
