"""A folder per class: `DIR/<class>/**/*.jpg` (.jpeg, .png, .webp, in any case).

Labels count the classes in the order of their names, or in the order of the option `classes`, so that a
val tree with fewer folders can use the indices of its train tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from storage.datasets._folder import Folder, is_image_name, list_files, list_folders
from storage.datasets.base import File, Image
from storage.errors import InvalidInput
from storage.keys import sample_key


class Reader(Folder):
    """Images labelled by the folder they are in, at any depth below it; other files do not count."""

    def __init__(self, path: str | Path, classes: list[str] | None = None) -> None:
        super().__init__(path)
        self._classes = None if classes is None else tuple(classes)
        twice = [name for name, count in Counter(classes).items() if count > 1]
        if twice:
            raise InvalidInput(f"option classes: {twice[0]!r} is named twice; name each class once.")

    def files(self) -> list[File]:
        """List the images.

        Raises NotFound without the folder, InvalidInput when there is no image, an image is in no class
        folder, a class folder is empty, or a folder is not among the option `classes`.
        """
        found = [file for file in list_files(self.root) if is_image_name(file.path)]
        loose = next((file.path for file in found if "/" not in file.path), None)
        if not found:
            raise InvalidInput(f"{self.root}: expected folders of images, one per class; found no image.")
        if loose:
            raise InvalidInput(
                f"{self.root}: the image {loose!r} is in no class folder; expected <class>/{loose}. "
                "Move it, or use format flat_folder for images without labels."
            )
        self._check_folders({_class(file) for file in found})
        return found

    def images(self, digest: Callable[[File], str]) -> Iterator[Image]:
        """Name the images, sorted by path."""
        labels = {name: label for label, name in enumerate(self.classes())}
        for file in self.files():
            key = sample_key(file.path)
            yield Image(key, file.path, 0, file.size, digest(file), labels[_class(file)])

    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        return tuple(list_folders(self.root)) if self._classes is None else self._classes

    def _check_folders(self, used: set[str]) -> None:
        unknown = sorted(used.difference(self.classes()))
        if unknown:
            raise InvalidInput(
                f"{self.root}: the folder {unknown[0]!r} is not among the {len(self.classes())} names of the "
                f"class list ({len(unknown)} such folders). Add it to the list or move it away."
            )
        empty = sorted(set(list_folders(self.root)) - used)
        if empty and self._classes is None:
            raise InvalidInput(
                f"{self.root}: the class folder {empty[0]!r} holds no image ({len(empty)} such folders). "
                "Remove it, or fix the labels with the option classes."
            )


def _class(file: File) -> str:
    return file.path.partition("/")[0]
