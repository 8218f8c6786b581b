"""Tars that somebody made by hand, their digests right: refused before a sample is given out."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.attempt import open_attempt
from storage.backends.memory import MemoryBackend
from storage.errors import Integrity
from storage.images import decode_png_gray, encode_png_gray
from storage.manifest import Key, Manifest, ShardRecord
from storage.store import Store
from storage.stream import stream
from tests.storage.labels import publish


def ref(manifest: Manifest) -> str:
    return f"{manifest.kind}@{manifest.version}"


def tar_of(*entries: tuple[tarfile.TarInfo, bytes], **how: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **how) as tar:
        for info, data in entries:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def entry(name: str, data: bytes = b"png", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def pax(**headers: str) -> bytes:
    return tar_of(entry("a.saliency.png", pax_headers=headers), format=tarfile.PAX_FORMAT)


def resized(tar: bytes, size: bytes) -> bytes:
    """The tar with its first member's size field overwritten, its checksum made right."""
    header = bytearray(tar[:512])
    header[124:136] = size.ljust(12, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + tar[512:]


GOOD = entry("a/b.saliency.png")
HOSTILE = {
    "dots": tar_of(entry("../b.saliency.png")),
    "deep dots": tar_of(entry("a/../../b.saliency.png")),
    "absolute": tar_of(entry("/etc/passwd.saliency.png")),
    "link": tar_of(entry("a.saliency.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "hard link": tar_of(entry("a.saliency.png", b"", type=tarfile.LNKTYPE, linkname="b")),
    "device": tar_of(entry("a.saliency.png", b"", type=tarfile.CHRTYPE)),
    "pax path": pax(path="../../x.saliency.png"),
    "pax size": pax(size="99999999999999"),
    "pax negative": pax(size="-512"),
    "pax sparse": pax(**{"GNU.sparse.map": "0,1", "GNU.sparse.size": "9999999999"}),
    "twice": tar_of(GOOD, entry("a/b.saliency.png", b"other")),
    "meta": tar_of(entry("__meta__")),
    "other": tar_of(entry("a.jpg")),
    "no key": tar_of(entry(".saliency.png")),
    "dot in key": tar_of(entry("a.b.saliency.png")),
    "folder alone": tar_of(entry("a", b"", type=tarfile.DIRTYPE)),
    "huge": resized(tar_of(GOOD), b"77777777777"),
    "larger than all": resized(tar_of(GOOD), b"\x80" + b"\x7f" * 11),
    "negative": resized(tar_of(GOOD), b"\xff" * 10 + b"\xfe\x00"),
    "no tar": b"\x89PNG" * 999,
    "gzip": b"\x1f\x8b" + bytes(2000),
    "empty": b"",
    "no end": tar_of(GOOD)[:1024],
    "one too many": tar_of(GOOD, entry("c.saliency.png")),
    "one too few": tar_of(),
}


def published(store: Store, tar: bytes, samples: int) -> Manifest:
    """A version of one tar, made by hand."""
    key = Key(stage="saliency", stage_version=1, params={}, inputs={}, datasets={})
    attempt = open_attempt(store, key, "n", "r", "r")
    members = [attempt.put_shard(0, ".tar", tar, samples)]
    record = ShardRecord(shard=0, shard_key="0" * 64, members=members, done=samples, failed=0)
    return publish(attempt, [attempt.finish(record)])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tars_are_refused(tmp_path: Path, name: str) -> None:
    """Digests are right: whoever published it meant it."""
    store = Store(MemoryBackend())
    manifest = published(store, HOSTILE[name], 2 if name == "twice" else 1)
    with pytest.raises(Integrity, match=manifest.members[0].key):
        next(iter(stream(store, ref(manifest), cache=tmp_path / "cache")))  # not one sample is given out
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_bombs_pass_as_bytes(tmp_path: Path) -> None:
    """A stream decodes nothing: storage.images looks at the size of a map before it is decoded."""
    store = Store(MemoryBackend())
    bomb = bytearray(encode_png_gray(np.zeros((4, 4), np.uint8)))
    bomb[16:24] = (2**30).to_bytes(4, "big") * 2
    manifest = published(store, tar_of(entry("a.saliency.png", bytes(bomb))), 1)
    (sample,) = stream(store, ref(manifest), cache=tmp_path)
    with pytest.raises(Integrity):
        decode_png_gray(sample["saliency.png"])
