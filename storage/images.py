"""Image bytes to pixels and back: JPEG, PNG and WebP, known by their bytes.

Whatever is wrong with an image raises InvalidInput and nothing else, so that one broken image becomes one
counted row. The size in the header is checked before a pixel is decoded.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import cast

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from storage.errors import Integrity, InvalidInput

MAX_PIXELS = 64_000_000

_PNG = b"\x89PNG\r\n\x1a\n"
# Level and filter are fixed: the bytes of a map are part of its shard's name. "Up" suits smooth maps
# (a seventh smaller than libpng's own choice); level 6 saves 3 % more at three times the time.
_PNG_FLAGS = [cv2.IMWRITE_PNG_COMPRESSION, 4, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]

# Pillow warns of broken EXIF, odd palettes and large sizes, all of which are decided here.
warnings.filterwarnings("ignore", module=r"PIL\.")


def sniff(data: bytes) -> str | None:
    """Return "jpeg", "png" or "webp" by the first bytes, None for anything else."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == _PNG:
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def image_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels from the header, as stored: EXIF rotation is ignored.

    Raises InvalidInput when the bytes are no JPEG, PNG or WebP or their header is broken.
    """
    if sniff(data) == "jpeg":
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            return width, height
        except ValueError:
            pass  # Pillow's verdict is final
    return _open(data).size


def decode_rgb(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode to uint8 RGB, height x width x 3, contiguous and writable.

    Grey, palette and CMYK images are converted, alpha is dropped, of 16 bits the upper 8 stay, EXIF rotation
    is ignored, of an animation the first picture is taken. Raises InvalidInput for bytes that are no JPEG,
    PNG or WebP, broken or cut images, and images above `max_pixels`.
    """
    width, height = image_size(data)
    if width * height > max_pixels:
        raise InvalidInput(
            f"image of {width} x {height}: expected at most {max_pixels} pixels; it was not decoded."
        )
    if sniff(data) == "jpeg":
        try:
            return cast(np.ndarray, simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True))
        except ValueError:
            pass  # CMYK, or something that libjpeg warns about
    return _decode_slowly(data)


def encode_png_gray(pixels: np.ndarray) -> bytes:
    """Encode a uint8 array, height x width, as an 8-bit grey PNG; equal pixels give equal bytes."""
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.size == 0:
        raise InvalidInput(
            f"grey map: expected uint8, height x width; found {pixels.dtype} {pixels.shape}."
        )
    done, data = cv2.imencode(".png", pixels, _PNG_FLAGS)
    assert done, "libpng encodes every 8-bit grey array"
    return data.tobytes()


def decode_png_gray(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an 8-bit grey PNG of ours to uint8, height x width.

    Raises Integrity when the bytes are anything else, broken, cut, or above `max_pixels`.
    """
    width, height = _gray_size(data)
    if not 0 < width * height <= max_pixels:
        raise Integrity(f"grey map of {width} x {height}: expected 1 to {max_pixels} pixels; not decoded.")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape != (height, width) or pixels.dtype != np.uint8:
        raise Integrity("grey map: its PNG does not decode. Verify the shard, then make it anew.")
    return pixels


def _open(data: bytes) -> Image.Image:
    kind = sniff(data)
    if kind is None:
        raise InvalidInput(
            f"image: expected a JPEG, PNG or WebP; found {_describe(data)}. Mend or remove the file."
        )
    try:
        return Image.open(io.BytesIO(data), formats=[kind.upper()])
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and others
        raise _broken(kind, data, error) from error


def _decode_slowly(data: bytes) -> np.ndarray:
    with _open(data) as image:
        try:
            if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip
                gray = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(gray[:, :, None], 3, axis=2)
            return np.array(image.convert("RGB"))
        except Exception as error:  # as above
            raise _broken(sniff(data), data, error) from error


def _broken(kind: str | None, data: bytes, error: Exception) -> InvalidInput:
    return InvalidInput(
        f"image: expected a whole {kind} image; found {len(data)} bytes that do not decode "
        f"({type(error).__name__}: {error}). Mend or remove the file."
    )


def _describe(data: bytes) -> str:
    return f"{len(data)} bytes beginning with {data[:8].hex(' ')}" if data else "an empty file"


def _gray_size(data: bytes) -> tuple[int, int]:
    """Walk the chunks and their checksums: OpenCV prints to stderr where it should raise."""
    header = struct.pack(">I4s", 13, b"IHDR")
    if data[:16] != _PNG + header or len(data) < 33 or data[24:29] != b"\x08\0\0\0\0":
        raise Integrity(f"grey map: expected an 8-bit grey PNG; found {_describe(data)}.")
    at, kind = 8, b""
    while kind != b"IEND" and at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 4 : at + 8 + size]
        at += 12 + size
        if data[at - 4 : at] != struct.pack(">I", zlib.crc32(body)):
            raise Integrity(f"grey map: PNG chunk {kind!r} is broken. Verify the shard, then make it anew.")
    if kind != b"IEND" or at != len(data):
        raise Integrity(f"grey map: its PNG of {len(data)} bytes has no proper end. Verify the shard.")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height
