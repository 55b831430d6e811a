"""Encodes a picture the way real data sets hold pictures: odd formats, wrong names, broken files.

ODD are files that can be read, BROKEN ones that can't; each by a short description, with its extension and
the function that makes the bytes from an RGB picture [height, width, 3] (RGBA for those in NEEDS_ALPHA).
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
Encoder = Callable[[Picture], bytes]

ORIENTATION = 0x0112  # the EXIF tag


def jpeg(picture: Picture, quality: int = 90) -> bytes:
    return _encoded(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])


def png(picture: NDArray[Any]) -> bytes:
    return _encoded(".png", picture, [])


def _encoded(ext: str, picture: NDArray[Any], options: list[int]) -> bytes:
    if picture.ndim == 3:
        swap = cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR
        picture = cv2.cvtColor(picture, swap)
    return bytes(cv2.imencode(ext, picture, options)[1])


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _image(picture: Picture) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(picture))


def _grey(picture: Picture) -> Picture:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _cmyk_jpeg(picture: Picture) -> bytes:
    return _saved(_image(picture).convert("CMYK"), "JPEG", quality=90)


def _palette_png(picture: Picture) -> bytes:
    """63 colours, and a 64th that is transparent."""
    indexed = _image(picture[..., :3]).quantize(63)
    colours = (indexed.getpalette() or [])[: 63 * 3]
    indexed.putpalette([*colours, *[0] * (64 * 3 - len(colours))])
    indexed.paste(63, mask=_image(np.where(picture[..., 3] < 128, 255, 0).astype(np.uint8)))
    return _saved(indexed, "PNG", transparency=63)


def _turned_jpeg(picture: Picture) -> bytes:
    """Lies on its side; the EXIF orientation (6: turn clockwise to view) sets it upright."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return _saved(_image(np.rot90(picture)), "JPEG", quality=90, exif=exif)


def _animation(picture: Picture, form: str) -> bytes:
    first, *others = [_image(np.roll(picture, shift, axis=1)) for shift in (0, 12, 24, 36)]
    return _saved(first, form, save_all=True, append_images=others, duration=120, loop=0)


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


ODD: dict[str, tuple[str, Encoder]] = {
    "alpha": ("png", png),
    "palette with transparency": ("png", _palette_png),
    "grey JPEG": ("jpg", lambda picture: jpeg(_grey(picture))),
    "grey PNG": ("png", lambda picture: png(_grey(picture))),
    "CMYK": ("jpg", _cmyk_jpeg),
    "EXIF orientation 6": ("jpg", _turned_jpeg),
    "PNG named .jpg": ("jpg", png),
    "WebP": ("webp", lambda picture: _saved(_image(picture), "WEBP", quality=90)),
    "16 bits a channel": ("png", lambda picture: png(picture.astype(np.uint16) * 257)),
    "animated GIF": ("gif", lambda picture: _animation(picture, "GIF")),
    "animated WebP": ("webp", lambda picture: _animation(picture, "WEBP")),
}
NEEDS_ALPHA = ("alpha", "palette with transparency")
BROKEN: dict[str, tuple[str, Encoder]] = {
    "empty": ("jpg", lambda _: b""),
    "truncated JPEG": ("jpg", lambda picture: _half(jpeg(picture))),
    "truncated PNG": ("png", lambda picture: _half(png(picture))),
    "text named .jpg": ("jpg", lambda _: b"<html><title>404 Not Found</title></html>\n"),
}
