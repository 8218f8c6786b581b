"""Images of one folder and the folders below it, without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from storage.datasets._folder import Folder, is_image_name, list_files
from storage.datasets.base import File, Image
from storage.errors import InvalidInput
from storage.keys import sample_key


class Reader(Folder):
    """Every *.jpg, *.jpeg, *.png and *.webp (in any case) below the folder; other files do not count."""

    def files(self) -> list[File]:
        """List the images. Raises NotFound without the folder, InvalidInput when it holds no image."""
        found = [file for file in list_files(self.root) if is_image_name(file.path)]
        if not found:
            raise InvalidInput(
                f"{self.root}: expected images (.jpg, .jpeg, .png, .webp) in it or below it; found none."
            )
        return found

    def images(self, digest: Callable[[File], str]) -> Iterator[Image]:
        """Name the images, sorted by path; none has a label."""
        for file in self.files():
            yield Image(sample_key(file.path), file.path, 0, file.size, digest(file), -1)

    def classes(self) -> tuple[str, ...]:
        """No classes."""
        return ()
