"""Decoding: every kind of image that ImageNet holds, and nothing but InvalidInput for what is broken."""

import io
import random
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.errors import Integrity, InvalidInput
from storage.images import decode_png_gray, decode_rgb, encode_png_gray, image_size, sniff


def picture(height: int = 24, width: int = 32) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    channels = [x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)]
    return np.stack(channels, axis=2).astype(np.uint8)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


RGB = Image.fromarray(picture())
JPEG = encoded(RGB, "JPEG", quality=95)
PNG = encoded(RGB, "PNG")
WEBP = encoded(RGB, "WEBP", lossless=True)


def bomb_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bomb_jpeg(width: int, height: int) -> bytes:
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


@pytest.mark.parametrize(("data", "kind"), [(JPEG, "jpeg"), (PNG, "png"), (WEBP, "webp")])
def test_kinds_are_known_by_their_bytes(data: bytes, kind: str) -> None:
    assert sniff(data) == kind
    assert image_size(data) == (32, 24)
    pixels = decode_rgb(data)
    assert (pixels.shape, pixels.dtype, pixels.flags.writeable) == ((24, 32, 3), np.uint8, True)
    assert np.abs(pixels.astype(int) - picture()).max() <= (12 if kind == "jpeg" else 0)


def test_baseline_jpegs_decode_as_pillow_decodes_them() -> None:
    assert np.abs(decode_rgb(JPEG).astype(int) - np.array(Image.open(io.BytesIO(JPEG)))).max() <= 1


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_grey_becomes_rgb(format: str) -> None:
    pixels = decode_rgb(encoded(RGB.convert("L"), format))
    assert pixels.shape == (24, 32, 3)
    assert np.array_equal(pixels[..., 0], pixels[..., 1])
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_cmyk_jpeg_falls_back_to_pillow() -> None:
    data = encoded(RGB.convert("CMYK"), "JPEG", quality=95)
    assert image_size(data) == (32, 24)
    assert np.abs(decode_rgb(data).astype(int) - picture()).mean() < 8


@pytest.mark.parametrize("mode", ["RGBA", "P", "1", "LA"])
def test_other_png_modes(mode: str) -> None:
    image = RGB.convert(mode)
    assert np.array_equal(decode_rgb(encoded(image, "PNG")), np.array(image.convert("RGB")))


def test_palette_with_transparency_drops_it() -> None:
    image = RGB.convert("P")
    pixels = decode_rgb(encoded(image, "PNG", transparency=bytes(range(256))))
    assert np.array_equal(pixels, np.array(image.convert("RGB")))


def test_alpha_is_dropped_not_composited() -> None:
    image = Image.fromarray(np.dstack([picture(), np.zeros((24, 32), np.uint8)]))
    for format in ("PNG", "WEBP"):
        options = {"lossless": True, "exact": True} if format == "WEBP" else {}
        assert np.array_equal(decode_rgb(encoded(image, format, **options)), picture())


def test_sixteen_bit_grey_keeps_the_upper_byte() -> None:
    values = np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16)
    pixels = decode_rgb(encoded(Image.fromarray(values), "PNG"))
    assert np.array_equal(pixels, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_exif_rotation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(RGB, "JPEG", quality=95, exif=exif.tobytes())
    assert image_size(data) == (32, 24)
    assert np.array_equal(decode_rgb(data), decode_rgb(JPEG))


def test_harmless_flaws_still_decode() -> None:
    expected = decode_rgb(JPEG)
    assert np.array_equal(decode_rgb(JPEG + b"trailing garbage"), expected)
    scan = JPEG.index(b"\xff\xda")
    junk = JPEG[:scan] + b"\x00\x00\x00" + JPEG[scan:]  # libjpeg warns: extraneous bytes before a marker
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(junk, strict=True)
    assert np.abs(decode_rgb(junk).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("data", [b"", b"x", b"GIF89a" + bytes(9), b"<html>404</html>", b"RIFF1234WAVEfmt "])
def test_other_files_are_refused_by_their_bytes(data: bytes) -> None:
    assert sniff(data) is None
    for function in (decode_rgb, image_size):
        with pytest.raises(InvalidInput, match="expected a JPEG, PNG or WebP; found"):
            function(data)


@pytest.mark.parametrize("data", [JPEG, PNG, WEBP])
def test_cut_images_are_refused(data: bytes) -> None:
    for size in (12, 20, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(InvalidInput):
            decode_rgb(data[:size])


@pytest.mark.parametrize(
    "data", [bomb_png(60_000, 60_000), bomb_png(10_000, 9_000), bomb_jpeg(65_000, 65_000)], ids=len
)
def test_bombs_are_refused_by_their_header(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_rgb(data)


def test_the_pixel_limit_is_inclusive() -> None:
    for data in (JPEG, PNG, WEBP):
        assert decode_rgb(data, max_pixels=32 * 24).shape == (24, 32, 3)
        with pytest.raises(InvalidInput, match="32 x 24"):
            decode_rgb(data, max_pixels=32 * 24 - 1)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([JPEG, PNG, WEBP]), st.integers(0, 2**32))
def test_damage_raises_invalid_input_or_decodes(data: bytes, seed: int) -> None:
    rng = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pytest undoes the module's own filter
        try:
            pixels = decode_rgb(bytes(damaged[: rng.randint(1, len(damaged))]), max_pixels=100_000)
        except InvalidInput:
            return
    assert pixels.ndim == 3
    assert pixels.dtype == np.uint8


def test_nothing_is_printed_for_broken_images() -> None:
    """A process that decodes broken EXIF, palettes, bombs and maps stays silent."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x1a\x01\x05\0\x01\0\0\0\xff\xff\0\0"
    parts = [
        encoded(RGB, "JPEG", exif=exif) + b"x",
        encoded(RGB.convert("CMYK"), "JPEG", exif=exif),
        encoded(RGB.convert("P"), "PNG", transparency=bytes(range(256))),
        bomb_png(10_000, 9_000),
        PNG[:200],
    ]
    code = (
        "import sys\nfrom storage.errors import GazeflowError\n"
        "from storage.images import decode_png_gray, decode_rgb\n"
        "for text in sys.argv[1:]:\n"
        "    for decode in (decode_rgb, decode_png_gray):\n"
        "        try: decode(bytes.fromhex(text))\n"
        "        except GazeflowError: pass\n"
    )
    command = [sys.executable, "-c", code, *(part.hex() for part in parts)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


MAP = (np.add.outer(np.arange(40), np.arange(56)) * 2).astype(np.uint8)


def test_maps_come_back_and_their_bytes_are_fixed() -> None:
    data = encode_png_gray(MAP)
    assert np.array_equal(decode_png_gray(data), MAP)
    assert data == encode_png_gray(np.asfortranarray(MAP))
    assert np.array_equal(np.array(Image.open(io.BytesIO(data))), MAP)
    assert data[24:26] == b"\x08\x00"


@pytest.mark.parametrize("pixels", [MAP.astype(np.float32), np.dstack([MAP] * 3), np.zeros((0, 4), np.uint8)])
def test_only_grey_maps_are_encoded(pixels: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="height x width"):
        encode_png_gray(pixels)


def test_a_map_that_is_cut_flipped_or_another_image_is_refused() -> None:
    data = encode_png_gray(MAP)
    others = [data[:n] for n in range(0, len(data), 7)] + [data + b"x", JPEG, PNG, bomb_png(9, 9)]
    for at in range(0, len(data), 5):
        others.append(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    for other in others:
        with pytest.raises(Integrity):
            decode_png_gray(other)


def test_map_size_is_checked_before_decoding() -> None:
    data = encode_png_gray(MAP)
    with pytest.raises(Integrity, match="56 x 40"):
        decode_png_gray(data, max_pixels=56 * 40 - 1)
