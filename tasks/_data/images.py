"""Images as they were indexed: their bytes verified, their pixels."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from storage.datasets.base import Image
from storage.errors import Integrity, InvalidInput
from storage.images import decode_rgb
from tasks._datasets import OpenDataset


def read_verified(dataset: OpenDataset, image: Image) -> bytes:
    """An image's bytes as they were indexed. Raises Integrity when the file has changed since."""
    data = dataset.reader.read(image)
    found = hashlib.sha256(data).hexdigest()
    if found != image.sha256:
        raise Integrity(
            f"{dataset.name}: {image.path} ({image.key}): expected SHA-256 {image.sha256} as indexed, found {found}; "
            "it was not used. The source changed while a run was under way: run again"
        )
    return data


def decoded_rgb(dataset: OpenDataset, image: Image) -> NDArray[np.uint8]:
    """An image's pixels, RGB. Raises InvalidInput naming a broken image."""
    try:
        return decode_rgb(read_verified(dataset, image))
    except InvalidInput as error:
        raise InvalidInput(f"{dataset.name}: {image.path}: {error}") from None


def key_hash(key: str) -> int:
    """A number that depends on the key alone, to choose and to seed by."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
