"""Open any picture safely, and make the small pictures that the steps need of it.

`open_image` is the only way by which a file's bytes become pixels in Gesso. It goes by content, never by the file's
name; it checks the header's dimensions before it decodes anything; it finds truncated and damaged files instead of
showing them half grey; and whatever the file held, the pixels are upright, opaque, 8-bit RGB. Embedded colour
profiles are not applied.
"""

import io
import re
import struct
import threading
import warnings
import zlib
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageFile
import simplejpeg
from isal import isal_zlib

from tasks.core.errors import DataError

Pixels = npt.NDArray[np.uint8]

PIL.Image.MAX_IMAGE_PIXELS = None  # `open_image` checks the header itself, against its caller's limit
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # what matters of them becomes a DataError

LARGE = 16_000_000
"""Pixels from which pictures are decoded one at a time, so that threads do not add up their memory."""

_one_large_picture = threading.Lock()

_FORMATS = {
    "jpeg": (b"\xff\xd8\xff",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "gif": (b"GIF87a", b"GIF89a"),
    "webp": (b"RIFF",),
    "bmp": (b"BM",),
    "tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
_NAMES = {"jpeg": "JPEG", "png": "PNG", "gif": "GIF", "webp": "WebP", "bmp": "BMP", "tiff": "TIFF"}
_ORIENTATION = 0x0112  # the tag's number in EXIF and TIFF
# Chunks of a PNG with more to it than opaque pixels: EXIF, or texts that may hold it, animation and transparency.
_NOT_PLAIN = {b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"acTL", b"tRNS"}
_DEFLATED = 1032  # so many bytes zlib makes of one at most; where there are fewer, libpng prints to stderr
_CHANNELS = {0: 1, 2: 3}  # of a PNG that is grey or RGB
_BLOCK = 0xFFFF  # bytes that a stored block of a zlib stream holds at most
# What libjpeg complains of although every pixel was decoded.
_HARMLESS = re.compile("extraneous bytes before marker|Invalid SOS parameters|Unknown Adobe color transform")


@dataclass(frozen=True, slots=True)
class Image:
    """A decoded picture and what its file says about it."""

    pixels: Pixels  # RGB [h, w, 3], upright; smaller than width x height where the decode was scaled down
    width: int  # of the whole picture, upright
    height: int
    format: str  # by content: jpeg, png, gif, webp, bmp, tiff
    mode: str  # the file's own pixels, in Pillow's words: RGB, RGBA, L, LA, P, CMYK, I;16, ...
    frames: int
    orientation: int  # EXIF, 1..8, already applied
    has_alpha: bool
    note: str  # what was done to it or is odd about it; "" where there is nothing to say


def open_image(data: bytes, *, max_pixels: int, min_side: int | None = None, reduced: bool = True) -> Image:
    """Decode a JPEG, PNG, GIF, WebP, BMP or TIFF file (of an animation the first frame) as opaque 8-bit RGB.

    Args:
        data: The file's bytes.
        max_pixels: A picture with more pixels than this is refused by its header, undecoded.
        min_side: Enough pixels for the caller: the picture is given at the smallest of the scales 1, 1/2, 1/4, 1/8
            whose shorter side has at least as many. A JPEG is decoded at that scale, which is faster.
        reduced: Whether another picture than a JPEG is scaled down, too, after it was decoded whole.

    Raises:
        DataError: empty, not an image, truncated, damaged, unsupported or too large; the message is a short reason.
    """
    kind = _format(data)
    try:
        return _decode(data, kind, max_pixels, min_side, reduced)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # decoders meet hostile bytes with any exception; each means the same here
        raise DataError(_reason(data, kind, error)) from error


def resize(rgb: Pixels, size: int) -> Pixels:
    """The picture as a square [size, size, 3]: not cropped; area averaging where it shrinks, linear where it grows."""
    height, width = rgb.shape[:2]
    shrunk = (min(width, size), min(height, size))
    if shrunk != (width, height):
        rgb = _scaled(rgb, shrunk, cv2.INTER_AREA)
    return rgb if shrunk == (size, size) else _scaled(rgb, (size, size), cv2.INTER_LINEAR)


def shrink(rgb: Pixels, side: int) -> Pixels:
    """The picture scaled down by area averaging to this longest side; unchanged where it is small enough."""
    height, width = rgb.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return rgb
    return _scaled(rgb, (max(1, round(width * scale)), max(1, round(height * scale))), cv2.INTER_AREA)


def thumbnail_jpeg(rgb: Pixels, side: int) -> bytes:
    """A JPEG (quality 85) of the picture, its longest side at most `side` pixels."""
    small = np.ascontiguousarray(shrink(rgb, side))
    jpeg: bytes = simplejpeg.encode_jpeg(small, quality=85, colorsubsampling="420")
    return jpeg


def perceptual_hash(rgb: Pixels) -> str:
    """The DCT hash "pHash" as 16 hex digits: pictures that look the same differ in few of its 64 bits.

    The 8x8 lowest frequencies (without the constant ones) of the picture at 32x32 grey, each a bit: above their median
    or not. After C. Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010, section 3.2.1.
    A picture of a single colour has the hash 0.
    """
    grey = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[1:9, 1:9].round(2)  # rounded: no bits out of arithmetic noise
    middle = np.sort(low, axis=None)[31:33].mean()  # the median; numpy's own takes longer than all the rest
    bits: Pixels = np.packbits(low > middle)
    return bits.tobytes().hex()


def _scaled(rgb: Pixels, size: tuple[int, int], interpolation: int) -> Pixels:
    scaled: Pixels = cv2.resize(rgb, size, interpolation=interpolation)
    return scaled


def _format(data: bytes) -> str:
    if not data:
        raise DataError("0 bytes")
    for kind, beginnings in _FORMATS.items():
        if data.startswith(beginnings) and (kind != "webp" or data[8:12] == b"WEBP"):
            return kind
    text = data[:9].decode("utf-8", "replace").rstrip("\ufffd")  # it may end within a character
    readable = text and text.isprintable() and "\ufffd" not in text
    raise DataError(f"not an image (starts with {text if readable else data[:9].hex(' ')!r})")


def _decode(data: bytes, kind: str, max_pixels: int, min_side: int | None, reduced: bool) -> Image:
    if kind == "webp" and data[12:16] == b"VP8X":  # Pillow makes room for the canvas as soon as it opens one
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        _check_pixels(width, height, max_pixels)
    chunks = _check_chunks(data) if kind == "png" else {}
    with PIL.Image.open(io.BytesIO(data), formats=[kind]) as file:
        width, height = file.size
        _check_pixels(width, height, max_pixels)
        if kind == "tiff":
            _check_strips(data, file)
        mode, frames = file.mode, 1 if kind == "jpeg" else int(getattr(file, "n_frames", 1))
        has_alpha = bool(file.has_transparency_data)
        notes = [f"first frame of {frames}"] if frames > 1 else []
        notes += ["alpha on white"] if has_alpha else []
        notes += ["16 bits scaled to 8"] if ";16" in f"{mode} {[tile.args for tile in file.tile]}" else []
        plain = kind == "png" and not has_alpha and _is_plain(data, chunks, width * height)
        with _one_large_picture if width * height > LARGE else nullcontext():
            complaint, found = "", _png(data) if plain else None
            orientation = 1 if plain else _orientation(file)  # of a PNG this decodes, too
            if kind == "jpeg":
                pixels, complaint = _jpeg(data, file, min_side)
            else:
                pixels = _opaque(file) if found is None else found
                pixels = _reduced(pixels, min_side) if reduced else pixels
            if kind != "tiff":  # which Pillow turns itself
                pixels = _upright(pixels, orientation)
                width, height = (height, width) if orientation > 4 else (width, height)
    note = "; ".join(notes + ([complaint] if complaint else []))
    return Image(pixels, width, height, kind, mode, frames, orientation, has_alpha, note)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        pixels, allowed = width * height / 1e6, max_pixels / 1e6
        raise DataError(f"{pixels:.4g} megapixels, more than the allowed {allowed:g}")


def _check_chunks(data: bytes) -> dict[bytes, int]:
    """Check every chunk of a PNG, and sum up their sizes: Pillow takes a file that ends after its last pixel."""
    at = 8
    sizes: dict[bytes, int] = {}
    while True:
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + size
        if end > len(data):
            raise DataError("truncated PNG")
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise DataError(f"damaged PNG (wrong checksum in {name.decode('ascii', 'backslashreplace')})")
        sizes[name] = sizes.get(name, 0) + size
        if name == b"IEND":
            return sizes
        at = end


def _is_plain(data: bytes, chunks: dict[bytes, int], pixels: int) -> bool:
    """Whether there is no more to a PNG than opaque pixels of at most 8 bits, as far as its header and chunks say."""
    bits, kind = data[24], data[25]
    enough = chunks.get(b"IDAT", 0) * _DEFLATED >= pixels * bits // 8 * (3 if kind == 2 else 1)
    return enough and bits <= 8 and chunks.keys().isdisjoint(_NOT_PLAIN)


def _png(data: bytes) -> Pixels | None:
    """The pixels of a plain PNG, as Pillow gives them; None where its data are damaged."""
    inflated = _inflated_png(data) or data
    pixels: Pixels | None = cv2.imdecode(np.frombuffer(inflated, np.uint8), cv2.IMREAD_COLOR_RGB)  # as Pillow, faster
    return pixels


def _inflated_png(data: bytes) -> bytes | None:
    """The same picture as a PNG whose rows aren't compressed; None where it isn't 8 bits, RGB or grey, or is damaged.

    Most of a PNG's decode is inflating, which ISA-L does more than twice as fast as the zlib in OpenCV. What is left to
    OpenCV are the rows' filters.
    """
    width, height, bits, kind, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if bits != 8 or kind not in _CHANNELS or interlaced:
        return None
    at, before = 8, 0
    deflated: list[bytes] = []
    while (name := data[at + 4 : at + 8]) != b"IEND":
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if name == b"IDAT":
            before = before or at
            deflated.append(data[at + 8 : end - 4])
        at = end
    size = height * (1 + width * _CHANNELS[kind])
    stream = isal_zlib.decompressobj()
    try:
        rows = memoryview(stream.decompress(b"".join(deflated), size + 1))
    except isal_zlib.error:  # type: ignore[misc]  # its stub says that it is an instance
        return None
    if len(rows) != size or not stream.eof:
        return None
    body: list[bytes | memoryview] = [
        b"IDAT\x78\x01"
    ]  # a zlib stream (RFC 1950) of blocks that are stored as they are (RFC 1951, 3.2.4)
    for start in range(0, size, _BLOCK):
        block = rows[start : start + _BLOCK]
        body += [struct.pack("<BHH", start + _BLOCK >= size, len(block), len(block) ^ 0xFFFF), block]
    body.append(struct.pack(">I", zlib.adler32(rows)))
    length, checksum = sum(map(len, body)) - len(b"IDAT"), reduce(lambda crc, part: zlib.crc32(part, crc), body, 0)
    return b"".join([data[:before], struct.pack(">I", length), *body, struct.pack(">I", checksum), data[at:]])


def _check_strips(data: bytes, file: PIL.Image.Image) -> None:
    """Check that a TIFF's pixels lie inside the file, before libtiff prints to stderr that they do not."""
    tags = getattr(file, "tag_v2", {})
    for offsets, sizes in ((273, 279), (324, 325)):  # of strips, of tiles
        ends = [offset + size for offset, size in zip(tags.get(offsets, ()), tags.get(sizes, ()), strict=False)]
        if ends and max(ends) > len(data):
            raise DataError("truncated TIFF")


def _orientation(file: PIL.Image.Image) -> int:
    """What EXIF says, or a TIFF's own tag. What XMP says doesn't count, as in browsers and OpenCV."""
    exif = PIL.Image.Exif()
    try:
        if "exif" in file.info:
            exif.load(file.info["exif"])  # a JPEG's getexif() may have been called, with XMP's, as it was opened
        else:
            if file.format == "PNG":
                file.load()  # it may have texts behind its pixels
            for name in ("XML:com.adobe.xmp", "xmp"):
                file.info.pop(name, None)  # or Pillow would fall back on it, and turn a TIFF by it
            exif = file.getexif()
        value = exif.get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF in a good picture, in any of the ways that Pillow's parser knows
        return 1
    return value if value in range(1, 9) else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo the camera's rotation: EXIF 2.32, tag 274 (5..8 swap width and height)."""
    if orientation > 4:
        pixels = pixels.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def _jpeg(data: bytes, file: PIL.Image.Image, min_side: int | None) -> tuple[Pixels, str]:
    """The pixels, and libjpeg's complaint where it is a harmless one."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # 12 bits, arithmetic coding or odd subsampling; or no JPEG at all, and Pillow says why
        return _reduced(_opaque(file), min_side), ""
    scale = _scale(height, width, min_side)
    inks = space in ("CMYK", "YCCK")
    options = {
        "colorspace": "CMYK" if inks else "RGB",
        "min_height": -(-height // scale),
        "min_width": -(-width // scale),
    }
    complaint = ""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, **options)
    except ValueError as error:
        if not _HARMLESS.search(str(error)):
            raise
        complaint = f"decoded in spite of: {error}"
        pixels = simplejpeg.decode_jpeg(data, strict=False, **options)
    if inks:
        light = pixels if "adobe" in file.info else ~pixels  # Adobe's programs store the paper that inks leave white
        pixels = (light[..., :3].astype(np.uint16) * light[..., 3:] // 255).astype(np.uint8)
    return pixels, complaint


def _scale(height: int, width: int, min_side: int | None) -> int:
    """By how much a picture can be divided with its shorter side still at `min_side`: 1, 2, 4 or 8."""
    return next((scale for scale in (8, 4, 2) if min_side and min(height, width) // scale >= min_side), 1)


def _reduced(pixels: Pixels, min_side: int | None) -> Pixels:
    height, width = pixels.shape[:2]
    scale = _scale(height, width, min_side)
    return pixels if scale == 1 else _scaled(pixels, (-(-width // scale), -(-height // scale)), cv2.INTER_AREA)


def _opaque(file: PIL.Image.Image) -> Pixels:
    """The file's (first) picture as 8-bit RGB, transparent pixels on white."""
    if file.mode in ("I", "F", "LAB"):
        raise DataError(f"unsupported {file.format} (pixels of mode {file.mode})")
    if file.mode.startswith("I;16"):
        grey = (np.asarray(file) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if file.has_transparency_data:
        coloured = file if file.mode == "RGBA" else file.convert("RGBA")  # which would copy it
        white = PIL.Image.new("RGB", file.size, "white")
        white.paste(coloured, mask=coloured.getchannel("A"))
        return np.asarray(white)
    return np.asarray(file.convert("RGB"))


def _reason(data: bytes, kind: str, error: Exception) -> str:
    """A decoder's exception in a few words."""
    name, text = _NAMES[kind], str(error)
    short = kind == "webp" and len(data) < 8 + int.from_bytes(data[4:8], "little")
    short |= kind == "jpeg" and b"\xff\xd9" not in data
    if short or re.search("truncated|premature end of jpeg|not enough|unexpected end", text, re.IGNORECASE):
        return f"truncated {name}"
    if isinstance(error, PIL.UnidentifiedImageError):
        return f"damaged {name} (its header can't be read)"
    return f"damaged {name} ({text or type(error).__name__})"
