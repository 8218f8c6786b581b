"""ImageNet (ILSVRC-2012), as class folders or as the official archives, never unpacked by us.

train   folders `<wnid>/*.JPEG`, or ILSVRC2012_img_train.tar, a tar of class tars `<wnid>.tar`
val     folders `<wnid>/*.JPEG`; or a flat folder of `ILSVRC2012_val_########.JPEG` or
        ILSVRC2012_img_val.tar, with the labels from the development kit (option `devkit`: the official
        .tar.gz or the folder it unpacks to)

The path is that folder or tar, or the folder that holds them: train/ or val/, or the tars under their
official names, and the development kit. With `devkit`, class folders too get its full class list.

A label is the rank of the WordNet id among the sorted ones. Keys, labels and image order do not depend on
the form: a train tar and its unpacked folders give the same keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from storage.datasets import class_folder
from storage.datasets._devkit import devkit_files, devkit_paths, read_devkit
from storage.datasets._folder import (
    Folder,
    is_image_name,
    list_files,
    list_folders,
    open_file,
    read_range,
    stat_file,
)
from storage.datasets._tar import Member, members
from storage.datasets.base import File, Image
from storage.datasets.base import Reader as AnyReader
from storage.errors import InvalidInput
from storage.keys import sample_key

_DEVKIT = "ILSVRC2012_devkit_t12"
_WNID = re.compile(r"n\d{8}")
_VAL = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


class Reader:
    """ImageNet's train or val split."""

    def __init__(self, path: str | Path, split: str = "train", devkit: str | None = None) -> None:
        if split not in ("train", "val"):
            raise InvalidInput(f"option split {split!r}: expected 'train' or 'val'.")
        self._form = _form(Path(path), split, None if devkit is None else Path(devkit))

    def files(self) -> list[File]:
        """List the images or the tar, and the development kit's files where labels come from it."""
        return self._form.files()

    def images(self, digest: Callable[[File], str]) -> Iterator[Image]:
        """Name the images; those of a tar have no sha256 yet."""
        return self._form.images(digest)

    def classes(self) -> tuple[str, ...]:
        """WordNet ids by label."""
        return self._form.classes()

    def open(self, path: str) -> BinaryIO:
        """Open a file of the source."""
        return self._form.open(path)

    def read(self, image: Image) -> bytes:
        """The image's bytes. Raises Integrity when they are not there any more in that size."""
        return self._form.read(image)


def _form(home: Path, split: str, devkit: Path | None) -> AnyReader:
    """Which of the forms above the source has."""
    path = _first([home / split, home / f"ILSVRC2012_img_{split}.tar"]) or home
    if split == "train" and path.is_file():
        return _TrainTar(path)
    if split == "val" and (path.is_file() or not any(map(_WNID.fullmatch, list_folders(path)))):
        return _FlatVal(path, devkit or _first([home / f"{_DEVKIT}.tar.gz", home / _DEVKIT]))
    if devkit is not None:
        return _ClassFolders(path, list(read_devkit(devkit).classes))
    return _ClassFolders(path)


def _first(paths: list[Path]) -> Path | None:
    return next((path for path in paths if path.exists()), None)


class _ClassFolders(class_folder.Reader):
    def files(self) -> list[File]:
        found = super().files()
        other = next((f.path for f in found if not _WNID.fullmatch(f.path.partition("/")[0])), None)
        if other:
            raise InvalidInput(
                f"{self.root}: expected folders named by WordNet id (n########); found {other!r}. "
                "Move it, or use format class_folder."
            )
        return found


class _TrainTar(Folder):
    """The tar of class tars, read in place."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self._path = path

    def files(self) -> list[File]:
        return [stat_file(self._path, self._path.name)]

    def classes(self) -> tuple[str, ...]:
        with open_file(self._path) as file:
            return tuple(wnid for wnid, _ in self._class_tars(file))

    def images(self, digest: Callable[[File], str]) -> Iterator[Image]:
        with open_file(self._path) as file:
            for label, (wnid, tar) in enumerate(self._class_tars(file)):
                for member in members(file, f"{self._path}:{tar.name}", tar.offset, tar.size):
                    if is_image_name(member.name):
                        key = sample_key(f"{wnid}/{member.name}")
                        yield Image(key, self._path.name, member.offset, member.size, "", label)

    def read(self, image: Image) -> bytes:
        return read_range(self._path, image.offset, image.size)

    def _class_tars(self, file: BinaryIO) -> list[tuple[str, Member]]:
        found = sorted((tar.name.removesuffix(".tar"), tar) for tar in members(file, str(self._path)))
        other = next((tar.name for wnid, tar in found if not _WNID.fullmatch(wnid)), None)
        if other or not found:
            raise InvalidInput(
                f"{self._path}: expected class tars named n########.tar; found {other or 'none'}."
            )
        return found


class _FlatVal(Folder):
    """Validation images in one folder or tar, labelled by the development kit."""

    def __init__(self, path: Path, devkit: Path | None) -> None:
        super().__init__(path.parent if path.is_file() else path)
        if devkit is None:
            raise InvalidInput(
                f"{path}: a val split without class folders (n########) has no labels of its own. Set the "
                "option devkit to ILSVRC2012_devkit_t12.tar.gz or to the folder it unpacks to."
            )
        self._path, self._devkit = path, devkit

    def files(self) -> list[File]:
        if self._path.is_file():
            images = [stat_file(self._path, self._path.name)]
        else:
            images = [file for file in list_files(self.root) if is_image_name(file.path)]
        if not images:
            raise InvalidInput(f"{self.root}: expected images ILSVRC2012_val_########.JPEG; found none.")
        return sorted(images + devkit_files(self._devkit), key=lambda file: file.path)

    def classes(self) -> tuple[str, ...]:
        return read_devkit(self._devkit).classes

    def images(self, digest: Callable[[File], str]) -> Iterator[Image]:
        labels = read_devkit(self._devkit).labels
        for name, image in self._tar_images() if self._path.is_file() else self._folder_images(digest):
            yield replace(image, label=self._label(name, labels))

    def read(self, image: Image) -> bytes:
        return read_range(self.root / image.path, image.offset, image.size)

    def open(self, path: str) -> BinaryIO:
        if path.startswith("devkit/"):
            return open_file(next(p for p in devkit_paths(self._devkit) if f"devkit/{p.name}" == path))
        return super().open(path)

    def _folder_images(self, digest: Callable[[File], str]) -> Iterator[tuple[str, Image]]:
        for file in self.files():
            if is_image_name(file.path):
                yield file.path, Image(sample_key(file.path), file.path, 0, file.size, digest(file), -1)

    def _tar_images(self) -> Iterator[tuple[str, Image]]:
        with open_file(self._path) as file:
            for member in members(file, str(self._path)):
                if is_image_name(member.name):
                    key = sample_key(member.name)
                    yield member.name, Image(key, self._path.name, member.offset, member.size, "", -1)

    def _label(self, name: str, labels: tuple[int, ...]) -> int:
        match = _VAL.fullmatch(name.rpartition("/")[2])
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(labels):
            raise InvalidInput(
                f"{self._path}: {name!r} is none of the {len(labels)} images of the ground truth; expected "
                "ILSVRC2012_val_########.JPEG, counted from 00000001."
            )
        return labels[number - 1]
