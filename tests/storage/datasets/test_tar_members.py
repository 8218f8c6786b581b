"""Tars read in place: the right bytes, nothing dangerous, and no cut tar that looks whole."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.datasets._tar import Member, members
from storage.errors import GazeflowError, Integrity, InvalidInput

CONTENT = {
    "a.jpg": b"A" * 700,
    "folder/b.jpg": b"",
    "c.jpg": b"C" * 512,
    "x" * 150 + ".jpg": b"long name",
    "ü.png": b"u",
}


def make(content: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def read(data: bytes, **region: int) -> dict[str, bytes]:
    found = members(io.BytesIO(data), "t.tar", **region)
    return {m.name: data[m.offset : m.offset + m.size] for m in found}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_are_found_where_they_are(format: int) -> None:
    data = make(CONTENT, format)
    assert read(data) == CONTENT
    assert read(b"x" * 77 + data + b"y" * 99, start=77, size=len(data)) == CONTENT


def test_names_lose_a_leading_dot_folder() -> None:
    assert list(members(io.BytesIO(make({"./a.jpg": b"1"})), "t")) == [Member("a.jpg", 1024, 1)]


def test_an_empty_tar_has_no_members() -> None:
    assert read(make({})) == {}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_cut_tar_is_refused_or_whole(data: st.DataObject) -> None:
    whole = make(CONTENT)
    boundaries = st.integers(0, len(whole) // 512).map(lambda block: block * 512)
    cut = data.draw(st.one_of(st.integers(0, len(whole)), boundaries))
    try:
        assert read(whole[:cut]) == CONTENT
    except Integrity:
        assert cut < len(whole)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 3))
def test_a_cut_inner_tar_does_not_run_into_what_follows(cut: int, padding: int) -> None:
    inner, following = make(CONTENT), make({"other.jpg": b"O" * 10})
    cut = min(cut, len(inner))
    pad = -cut % 512 + padding * 512
    try:
        assert read(inner[:cut] + bytes(pad) + following, start=0, size=cut) == CONTENT
    except Integrity:
        assert cut < len(inner)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 255))
def test_a_flipped_byte_loses_no_member_quietly(at: int, flip: int) -> None:
    whole = bytearray(make(CONTENT))
    whole[at % len(whole)] ^= flip
    try:
        found = read(bytes(whole))
    except GazeflowError:
        return
    assert len(found) == len(CONTENT)


def test_joined_tars_are_refused() -> None:
    with pytest.raises(Integrity, match="joined"):
        read(make(CONTENT) + make({"z.jpg": b"z"}))


@pytest.mark.parametrize("data", [b"", b"not a tar", bytes(100), b"\x1f\x8b" + bytes(2000), b"x" * 4096])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(Integrity, match=r"t\.tar"):
        read(data)


@pytest.mark.parametrize("name", ["/etc/a.jpg", "../a.jpg", "a/../../b.jpg", ".//etc/a.jpg"])
def test_names_that_point_outside_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="relative names"):
        read(make({name: b"x"}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind: bytes) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("odd.jpg")
        info.type, info.linkname = kind, "a.jpg"
        tar.addfile(info)
    with pytest.raises(InvalidInput, match=r"odd\.jpg"):
        read(out.getvalue())


def test_a_negative_size_does_not_hang() -> None:
    header = bytearray(make({"a.jpg": b"x" * 600}))
    at = 512  # the header after the folder's
    header[at + 124 : at + 136] = b"\xff" * 10 + b"\xfc\x00"  # base 256: -1024
    header[at + 148 : at + 156] = b" " * 8
    header[at + 148 : at + 155] = b"%06o\0" % sum(header[at : at + 512])
    with pytest.raises(Integrity):
        read(bytes(header))
