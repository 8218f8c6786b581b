"""What the attention formats share: one folder of photographs, and fixations brought into their frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from storage.datasets._folder import Folder, check_folder, is_image_name, list_files, stat_file
from storage.datasets.base import Attention, File, Gaze, Image
from storage.errors import InvalidInput
from storage.images import image_size
from storage.keys import check_unique, sample_key

Size = tuple[int, int]  # width, height

HEAD = 1 << 16  # bytes that hold the header of nearly every image


@dataclass(frozen=True)
class Recording:
    """Fixations on one image as recorded, some perhaps outside it."""

    gazes: tuple[Gaze, ...]
    frame: Size | None = None  # width, height, where the annotations state them


class GazeFolder(Folder, ABC):
    """A folder of images without classes, and annotations that name these images.

    Keys come from the path below the image folder. A format says where the images are, which files annotate
    them, and what was recorded for each name.
    """

    @abstractmethod
    def image_folder(self) -> str:
        """The folder of the images, relative to the source."""

    @abstractmethod
    def annotation_paths(self) -> list[str]:
        """Files that hold the fixations, relative to the source; raises InvalidInput when there are none."""

    @abstractmethod
    def recordings(self) -> dict[str, Callable[[], Recording]]:
        """What was recorded, by image name with or without extension, each loaded when called."""

    def image_names(self) -> list[str]:
        """The images, relative to the image folder."""
        folder = self.root / self.image_folder()
        return [file.path for file in list_files(folder) if is_image_name(file.path)]

    def files(self) -> list[File]:
        """List images and annotations, sorted by path.

        Raises NotFound when the folder is missing, InvalidInput when it lacks images or annotations.
        """
        check_folder(self.root)
        paths = {*map(self._path, self._names().values()), *self.annotation_paths()}
        return [stat_file(self.root / path, path) for path in sorted(paths)]

    def images(self, digest: Callable[[File], str]) -> Iterator[Image]:
        """Name the images, sorted by key; none has a label."""
        for key, name in self._names().items():
            file = stat_file(self.root / self._path(name), self._path(name))
            yield Image(key, file.path, 0, file.size, digest(file), -1)

    def classes(self) -> tuple[str, ...]:
        """No classes: these sets are looked at, not classified."""
        return ()

    def attention(self) -> Iterator[Attention]:
        """Fixations of every image that has any inside it, sorted by key; those outside are counted.

        Raises InvalidInput when an annotation names an image that is not there, or states another size.
        """
        names = self._names()
        recorded = self._by_key(names)
        for key in sorted(recorded):
            recording = recorded[key]()
            frame = self._frame(names[key], recording.frame)
            if frame and (attention := within(key, *frame, recording.gazes)).gazes:
                yield attention

    def _path(self, name: str) -> str:
        return f"{self.image_folder()}/{name}"

    def _names(self) -> dict[str, str]:
        """Image names by key, sorted by key."""
        keyed = sorted((sample_key(name), name) for name in self._images_there())
        check_unique(keyed)
        return dict(keyed)

    def _images_there(self) -> list[str]:
        folder = self.root / self.image_folder()
        if names := self.image_names() if folder.is_dir() else []:
            return names
        raise InvalidInput(
            f"{self.root}: expected images (.jpg, .jpeg, .png, .webp) in {self.image_folder()}/, found none; "
            "nothing was read. Mend the path or the format in the config."
        )

    def _by_key(self, names: dict[str, str]) -> dict[str, Callable[[], Recording]]:
        """Recordings by key instead of the name that the annotations use."""
        keys = {name.rpartition(".")[0]: key for key, name in names.items()}
        keys |= {name: key for key, name in names.items()}
        recordings = self.recordings()
        for name in recordings:
            if name not in keys:
                raise InvalidInput(
                    f"{self.root}: fixations name the image {name!r}, which is not among the {len(names)} in "
                    f"{self.image_folder()}/; nothing was read. Add the image, or remove its fixations."
                )
        check_unique((keys[name], name) for name in recordings)
        return {keys[name]: load for name, load in recordings.items()}

    def _frame(self, name: str, stated: Size | None) -> Size | None:
        """Width and height of an image, which must be those that its fixations were recorded in.

        None when the image's header is broken and nothing else states its size: decoding it fails, and is
        counted there.
        """
        try:
            size = self._size(self._path(name))
        except InvalidInput:
            return stated
        if stated is not None and stated != size:
            raise InvalidInput(
                f"{self.root / self._path(name)}: expected {stated[0]} x {stated[1]} pixels, the frame of "
                f"its fixations, found {size[0]} x {size[1]}; nothing was scaled. Restore the image, or mend "
                "the frame."
            )
        return size

    def _size(self, path: str) -> Size:
        """Width and height from the head of the file, and from all of it where metadata comes before them."""
        with self.open(path) as file:
            head = file.read(HEAD)
            try:
                return image_size(head)
            except InvalidInput:
                return image_size(head + file.read())


def within(key: str, width: int, height: int, gazes: Iterable[Gaze]) -> Attention:
    """The fixations inside the frame, the others counted; people without any are left out."""
    kept: list[Gaze] = []
    dropped = 0
    for gaze in gazes:
        inside = (gaze.x >= 0) & (gaze.x < width) & (gaze.y >= 0) & (gaze.y < height)
        dropped += int(np.count_nonzero(~inside))
        if inside.any():
            kept.append(Gaze(gaze.subject, gaze.x[inside], gaze.y[inside]))
    return Attention(key, width, height, tuple(kept), dropped)
