"""Any file at all either becomes the expected pixels or a short reason."""

import io
import pickle
import re
import subprocess
import sys
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
import simplejpeg

from tasks.core.errors import DataError
from tasks.vision.images import (
    Image,
    Pixels,
    open_image,
    perceptual_hash,
    resize,
    shrink,
    thumbnail_jpeg,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as in production, but pytest resets filters

RED, GREEN, BLUE, GREY, WHITE = (200, 30, 40), (20, 180, 60), (30, 50, 210), (120, 120, 120), (255, 255, 255)


def quarters(height: int = 48, width: int = 64) -> Pixels:
    """Red, green over blue, grey: every flip and turn of it looks different."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, GREY
    return pixels


def texture(height: int = 300, width: int = 400, seed: int = 0) -> Pixels:
    """Smooth random colours, as a photograph's."""
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def encode(pixels: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    picture = PIL.Image.fromarray(pixels)
    buffer = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes, min_side: int | None = None) -> Image:
    return open_image(data, max_pixels=1_000_000, min_side=min_side)


def refusal(data: bytes, max_pixels: int = 1_000_000) -> str:
    with pytest.raises(DataError) as caught:
        open_image(data, max_pixels=max_pixels)
    return str(caught.value)


def furthest(a: Pixels, b: Pixels) -> int:
    """The largest difference of a pixel, away from the blurred borders between the quarters."""
    assert a.shape == b.shape
    difference = np.abs(a.astype(int) - b.astype(int))
    height, width = difference.shape[:2]
    rows, columns = np.arange(height), np.arange(width)
    inside = np.ix_(np.abs(rows - height / 2) > 8, np.abs(columns - width / 2) > 8)
    return int(difference[inside].max())


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 12),
        ("GIF", {}, 3),
        ("JPEG", {"quality": 95}, 4),
        ("JPEG", {"quality": 95, "progressive": True}, 4),
    ],
    ids=["png", "bmp", "tiff", "tiff-lzw", "webp-lossless", "webp", "gif", "jpeg", "jpeg-progressive"],
)
def test_every_format_gives_its_pixels(kind: str, options: dict[str, object], tolerance: int) -> None:
    picture = opened(encode(quarters(), kind, **options))
    assert furthest(picture.pixels, quarters()) <= tolerance
    assert (picture.width, picture.height, picture.format) == (64, 48, kind.lower())
    assert (picture.frames, picture.orientation, picture.has_alpha, picture.note) == (1, 1, False, "")


def rgba(alpha: int) -> np.ndarray:
    """Red, its right half with this alpha."""
    pixels = np.full((8, 8, 4), (*RED, 255), np.uint8)
    pixels[:, 4:, 3] = alpha
    return pixels


def palette_png() -> bytes:
    picture = PIL.Image.fromarray(np.repeat([[0] * 4 + [1] * 4], 8, axis=0).astype(np.uint8), "P")
    picture.putpalette([*RED, *GREEN])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=1)
    return buffer.getvalue()


def deep_png(channels: tuple[int, ...]) -> bytes:
    """16 bits a channel, from RGB(A) values in 8 bits."""
    values = (np.tile(channels, (8, 8, 1)).astype(np.uint16) << 8) + 77
    order = [2, 1, 0, 3][: len(channels)] if len(channels) > 1 else [0]
    return cv2.imencode(".png", values[..., order])[1].tobytes()


HALF_RED = tuple(round(c * 128 / 255 + 255 * 127 / 255) for c in RED)


@pytest.mark.parametrize(
    ("data", "mode", "left", "right", "note"),
    [
        (encode(np.full((8, 8), 90, np.uint8), "PNG"), "L", (90,) * 3, (90,) * 3, ""),
        (encode(np.full((8, 8), 90, np.uint8), "JPEG"), "L", (90,) * 3, (90,) * 3, ""),
        (encode(np.full((8, 8), 255, np.uint8), "PNG", "1"), "1", WHITE, WHITE, ""),
        (encode(rgba(0), "PNG"), "RGBA", RED, WHITE, "alpha on white"),
        (encode(rgba(128), "PNG"), "RGBA", RED, HALF_RED, "alpha on white"),
        (encode(rgba(0), "WEBP", lossless=True), "RGBA", RED, WHITE, "alpha on white"),
        (encode(rgba(0), "TIFF"), "RGBA", RED, WHITE, "alpha on white"),
        (encode(rgba(0), "PNG", "LA"), "LA", (82,) * 3, WHITE, "alpha on white"),
        (encode(rgba(255)[..., :3], "PNG", transparency=RED), "RGB", WHITE, WHITE, "alpha on white"),
        (palette_png(), "P", RED, WHITE, "alpha on white"),
        (encode(rgba(255), "TIFF", "CMYK"), "CMYK", RED, RED, ""),
        (deep_png((90,)), "I;16", (90,) * 3, (90,) * 3, "16 bits scaled to 8"),
        (deep_png(RED), "RGB", RED, RED, "16 bits scaled to 8"),
        (deep_png((*RED, 0)), "RGBA", WHITE, WHITE, "alpha on white; 16 bits scaled to 8"),
    ],
    ids=[
        "grey", "grey-jpeg", "one-bit", "transparent", "half-transparent", "webp-alpha", "tiff-alpha", "grey-alpha",
        "colour-key", "palette-transparent", "cmyk-tiff", "grey-16", "rgb-16", "rgba-16",
    ],
)  # fmt: skip
def test_every_mode_becomes_opaque_rgb(
    data: bytes, mode: str, left: tuple[int, ...], right: tuple[int, ...], note: str
) -> None:
    picture = opened(data)
    assert (picture.mode, picture.note) == (mode, note)
    assert picture.has_alpha == ("alpha" in note)
    assert np.abs(picture.pixels[:, :4].astype(int) - left).max() <= 1
    assert np.abs(picture.pixels[:, 4:].astype(int) - right).max() <= 1


def without_adobe_marker(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


CMYK = encode(quarters(), "JPEG", "CMYK", quality=95)
YCCK = simplejpeg.encode_jpeg(
    np.dstack([quarters(), np.full((48, 64, 1), 255, np.uint8)]), colorspace="CMYK", colorsubsampling="444", quality=95
)


def ink_jpeg() -> bytes:
    """The numbers in the file are ink, not Adobe's paper left white. (Pillow inverts what it writes.)"""
    paper = np.dstack([quarters(), np.full((48, 64, 1), 255, np.uint8)])
    buffer = io.BytesIO()
    PIL.Image.frombytes("CMYK", (64, 48), paper.tobytes()).save(buffer, "JPEG", quality=95)
    return without_adobe_marker(buffer.getvalue())


@pytest.mark.parametrize("data", [CMYK, YCCK, ink_jpeg()], ids=["adobe-cmyk", "adobe-ycck", "without-adobe"])
def test_a_cmyk_jpeg_has_its_colours(data: bytes) -> None:
    picture = opened(data)
    assert picture.mode == "CMYK"
    assert furthest(picture.pixels, quarters()) <= 6


UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    # How the camera stored the picture: the inverse of what shows it upright.
    stored = np.ascontiguousarray(UPRIGHT[orientation](quarters()))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    picture = opened(encode(stored, kind, exif=exif, **options))
    assert picture.orientation == orientation
    assert (picture.width, picture.height) == (64, 48)
    assert furthest(picture.pixels, quarters()) <= 4


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def xmp_png(behind: bool) -> bytes:
    """A PNG with XMP, before its pixels or behind them."""
    texts = PIL.PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    data = encode(quarters(), "PNG", pnginfo=texts)
    start, pixels, end = data.index(b"iTXt") - 4, data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    return data[:start] + data[pixels:end] + data[start:pixels] + data[end:] if behind else data


def other_exif() -> PIL.Image.Exif:
    """A camera's, without an orientation, that Pillow reads a JPEG's resolution from."""
    exif = PIL.Image.Exif()
    exif[0x0128], exif[0x011A] = 2, 72.0
    return exif


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(quarters(), "JPEG", quality=95, xmp=XMP), id="jpeg"),
        pytest.param(encode(quarters(), "JPEG", quality=95, xmp=XMP, exif=other_exif()), id="jpeg with other exif"),
        pytest.param(encode(quarters(), "WEBP", lossless=True, xmp=XMP), id="webp"),
        pytest.param(xmp_png(behind=False), id="png"),
        pytest.param(xmp_png(behind=True), id="png behind pixels"),
        pytest.param(encode(quarters(), "TIFF", tiffinfo={700: XMP}), id="tiff"),
    ],
)
def test_an_orientation_in_xmp_alone_does_not_count(data: bytes) -> None:
    assert XMP in data
    picture = opened(data)
    assert (picture.orientation, picture.width, picture.height) == (1, 64, 48)
    assert furthest(picture.pixels, quarters()) <= 4


@pytest.mark.parametrize("behind", [False, True])
def test_exif_of_a_png_is_found_in_a_text_and_behind_the_pixels(behind: bool) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    texts = PIL.PngImagePlugin.PngInfo()
    texts.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n")  # as ImageMagick writes it
    stored = np.rot90(quarters())
    if behind:
        data = encode(stored, "PNG", exif=exif)
        start, pixels, end = data.index(b"eXIf") - 4, data.index(b"IDAT") - 4, data.index(b"IEND") - 4
        data = data[:start] + data[pixels:end] + data[start:pixels] + data[end:]
    else:
        data = encode(stored, "PNG", pnginfo=texts)
    picture = opened(data)
    assert picture.orientation == 6
    assert furthest(picture.pixels, quarters()) == 0


def test_damaged_exif_leaves_the_picture_as_it_is() -> None:
    picture = opened(encode(quarters(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"))
    assert (picture.orientation, picture.width) == (1, 64)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken_and_noted(kind: str) -> None:
    frames = [PIL.Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], **options)
    picture = opened(buffer.getvalue())
    assert (picture.frames, picture.note) == (3, "first frame of 3")
    assert np.abs(picture.pixels.astype(int) - RED).max() <= 1


@pytest.mark.parametrize(
    ("min_side", "shape"),
    [(None, (304, 400)), (304, (304, 400)), (153, (304, 400)), (152, (152, 200)), (76, (76, 100)), (1, (38, 50))],
)
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("PNG", {})], ids=["jpeg", "png"])
def test_a_picture_comes_at_the_smallest_scale_that_is_enough(
    kind: str, options: dict[str, object], min_side: int | None, shape: tuple[int, int]
) -> None:
    picture = opened(encode(texture(304), kind, **options), min_side)
    assert picture.pixels.shape == (*shape, 3)
    assert (picture.width, picture.height) == (400, 304)
    expected = cv2.resize(texture(304), shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(picture.pixels.astype(int) - expected).mean() < 3


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def webp_header(width: int, height: int) -> bytes:
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + len(canvas).to_bytes(4, "little") + canvas
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def gif_header(width: int, height: int) -> bytes:
    whole = bytearray(encode(quarters(), "GIF"))
    whole[6:10] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return bytes(whole)


def jpeg_header(width: int, height: int) -> bytes:
    whole = bytearray(encode(quarters(), "JPEG"))
    frame = whole.index(b"\xff\xc0")
    whole[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(whole)


def bmp_header(width: int, height: int) -> bytes:
    whole = bytearray(encode(quarters(), "BMP"))
    whole[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    return bytes(whole)


@pytest.mark.parametrize("header", [png_header, webp_header, gif_header, jpeg_header, bmp_header])
def test_a_bomb_is_refused_by_its_header(header: Callable[[int, int], bytes]) -> None:
    assert refusal(header(30_000, 30_000), 100_000_000) == "900 megapixels, more than the allowed 100"


def test_a_bomb_costs_no_memory() -> None:
    script = (
        "import resource, sys\n"
        "from tasks.core.errors import DataError\n"
        "from tasks.vision.images import open_image\n"
        "data = sys.stdin.buffer.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    open_image(data, max_pixels=100_000_000)\n"
        "except DataError:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=png_header(30_000, 30_000), capture_output=True, check=True
    )
    assert int(done.stdout) < 20_000  # KiB; decoded it would be 2.7 million


def test_a_picture_at_the_limit_is_opened() -> None:
    data = encode(quarters(), "PNG")
    assert open_image(data, max_pixels=64 * 48).width == 64
    assert "more than the allowed" in refusal(data, 64 * 48 - 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"hello world, I am text", "not an image (starts with 'hello wor')"),
        ("한국어 텍스트".encode(), "not an image (starts with '한국어')"),
        (bytes(20), "not an image (starts with '00 00 00 00 00 00 00 00 00')"),
        (b"\xff\xd8", "not an image (starts with 'ff d8')"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "not an image"),
        (b"BM is how this text begins, and it goes on for a while", "truncated BMP"),
        (b"\xff\xd8\xff" + bytes(500) + b"\xff\xd9", "damaged JPEG"),
        (b"GIF89a" + bytes(500), "damaged GIF"),
    ],
    ids=["empty", "text", "korean-text", "zeros", "two-bytes", "wave", "bm-text", "jpeg-zeros", "gif-zeros"],
)
def test_what_is_no_image_is_refused_in_words(data: bytes, reason: str) -> None:
    assert refusal(data).startswith(reason)


WHOLE = {
    "JPEG": encode(texture(), "JPEG"),
    "JPEG progressive": encode(texture(), "JPEG", progressive=True),
    "JPEG CMYK": encode(texture(), "JPEG", "CMYK"),
    "PNG": encode(texture(), "PNG"),
    "GIF": encode(texture(), "GIF"),
    "WebP": encode(texture(), "WEBP"),
    "BMP": encode(texture(), "BMP"),
    "TIFF": encode(texture(), "TIFF"),
    "TIFF LZW": encode(texture(), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 0.999])
def test_a_truncated_file_is_found_at_any_length(name: str, share: float) -> None:
    reason = refusal(WHOLE[name][: int(len(WHOLE[name]) * share)])
    assert reason.startswith((f"truncated {name.split()[0]}", f"damaged {name.split()[0]}"))


@pytest.mark.parametrize("missing", [1, 2, 3, 4, 8, 12, 16, 30, 1000])
@pytest.mark.parametrize("name", ["JPEG", "JPEG progressive", "JPEG CMYK", "PNG"])
def test_a_file_that_lacks_its_last_bytes_is_truncated(name: str, missing: int) -> None:
    assert refusal(WHOLE[name][:-missing]) == f"truncated {name.split()[0]}"


def test_a_truncated_jpeg_is_found_at_every_scale() -> None:
    with pytest.raises(DataError, match="truncated JPEG"):
        opened(WHOLE["JPEG"][:-1000], min_side=32)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9, 0.99, 0.9999, 1])
@pytest.mark.parametrize("name", ["JPEG", "JPEG progressive"])
def test_a_scaled_decode_finds_what_a_strict_decode_finds(name: str, share: float) -> None:
    data = WHOLE[name][: int(len(WHOLE[name]) * share)]
    try:
        simplejpeg.decode_jpeg(data, strict=True)
    except ValueError:
        with pytest.raises(DataError, match="truncated JPEG"):
            opened(data, min_side=32)
    else:
        assert share == 1
        assert min(opened(data, min_side=32).pixels.shape[:2]) < 100


def png(header: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in ((b"IHDR", header), *chunks, (b"IEND", b"")))


@pytest.mark.parametrize("part", ["stream", "pixels", "filter"])
def test_pixels_that_are_not_whole_in_chunks_that_are_are_found(part: str) -> None:
    header = (400).to_bytes(4, "big") + (300).to_bytes(4, "big") + b"\x08\x02\0\0\0"
    lines = b"".join(b"\0" + line.tobytes() for line in texture())
    stream = {
        "stream": zlib.compress(lines)[:-500],
        "pixels": zlib.compress(lines[:-3000]),
        "filter": zlib.compress(b"\x09" + lines[1:]),
    }[part]
    np.testing.assert_array_equal(opened(png(header, (b"IDAT", zlib.compress(lines)))).pixels, texture())
    assert refusal(png(header, (b"IDAT", stream))).startswith(("truncated PNG", "damaged PNG"))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA"])
@pytest.mark.parametrize("options", [{}, {"pnginfo": "text"}], ids=["bare", "with text"])
def test_a_png_has_the_pixels_that_pillow_sees(mode: str, options: dict[str, object]) -> None:
    if options:
        info = PIL.PngImagePlugin.PngInfo()
        info.add_text("Software", "by hand")
        options = {"pnginfo": info}
    data = encode(texture(), "PNG", mode, **options)
    with PIL.Image.open(io.BytesIO(data)) as file:
        white = PIL.Image.new("RGBA", file.size, "white")
        seen = np.asarray(PIL.Image.alpha_composite(white, file.convert("RGBA")).convert("RGB"))
    np.testing.assert_array_equal(opened(data).pixels, seen)


def test_a_png_in_many_chunks_with_others_before_them_has_its_pixels() -> None:
    header = (400).to_bytes(4, "big") + (300).to_bytes(4, "big") + b"\x08\x02\0\0\0"
    stream = zlib.compress(b"".join(b"\0" + line.tobytes() for line in texture()))
    pieces = [(b"IDAT", stream[at : at + 999]) for at in range(0, len(stream), 999)]
    data = png(header, (b"gAMA", (100_000).to_bytes(4, "big")), (b"PLTE", bytes(range(6))), *pieces, (b"IDAT", b""))
    np.testing.assert_array_equal(opened(data).pixels, texture())


def test_only_a_jpeg_is_reduced_where_that_is_wanted() -> None:
    for kind, shape in (("JPEG", (75, 100, 3)), ("PNG", (300, 400, 3))):
        picture = open_image(encode(texture(), kind), max_pixels=1_000_000, min_side=64, reduced=False)
        assert picture.pixels.shape == shape


def test_a_wrong_checksum_is_found() -> None:
    data = bytearray(WHOLE["PNG"])
    data[data.index(b"IDAT") + 1000] ^= 1
    assert refusal(bytes(data)) == "damaged PNG (wrong checksum in IDAT)"


def test_a_jpeg_with_harmless_damage_is_kept_and_noted() -> None:
    whole = encode(quarters(), "JPEG", quality=95)
    picture = opened(whole[:-2] + bytes(7) + whole[-2:])
    assert furthest(picture.pixels, quarters()) <= 4
    assert re.match(r"decoded in spite of: Corrupt JPEG data: \d extraneous bytes", picture.note)


def test_bytes_after_the_end_do_no_harm() -> None:
    for name in ("JPEG", "PNG", "GIF"):
        assert opened(WHOLE[name] + b"appended").width == 400


def test_numbers_that_are_no_picture_are_refused() -> None:
    assert refusal(encode(np.ones((8, 8), np.float32), "TIFF")) == "unsupported TIFF (pixels of mode F)"


def test_the_libraries_are_quiet() -> None:
    script = (
        "import pickle, sys\n"
        "from tasks.core.errors import DataError\n"
        "from tasks.vision.images import open_image\n"
        "for data in pickle.load(sys.stdin.buffer):\n"
        "    try:\n"
        "        open_image(data, max_pixels=200_000_000)\n"
        "    except DataError:\n"
        "        pass\n"
    )
    files = [data[: len(data) // part] for data in WHOLE.values() for part in (1, 2, 10)]
    files.append(png_header(11_000, 11_000))  # Pillow warns of a bomb from 90 megapixels
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", script], input=pickle.dumps(files), capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize("shape", [(300, 400), (100, 50), (300, 50), (1, 700), (32, 32)])
def test_resize_gives_a_square_of_the_whole_picture(shape: tuple[int, int]) -> None:
    square = resize(quarters(*shape) if min(shape) > 1 else np.full((*shape, 3), RED, np.uint8), 32)
    assert (square.shape, square.dtype) == ((32, 32, 3), np.uint8)
    assert tuple(square[2, 2]) == RED
    assert tuple(square[-3, -3]) == (GREY if min(shape) > 1 else RED)


def test_resize_averages_what_it_shrinks() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.all(resize(stripes, 32) == 100)


def test_a_thumbnail_keeps_proportions_and_never_grows() -> None:
    thumbnail = opened(thumbnail_jpeg(quarters(480, 640), 112))
    assert (thumbnail.width, thumbnail.height, thumbnail.format) == (112, 84, "jpeg")
    assert np.abs(thumbnail.pixels[5, 5].astype(int) - RED).max() <= 4
    assert opened(thumbnail_jpeg(quarters(20, 30), 112)).width == 30
    assert shrink(np.zeros((3, 5000, 3), np.uint8), 112).shape == (1, 112, 3)


def distance(a: Pixels, b: Pixels) -> int:
    return (int(perceptual_hash(a), 16) ^ int(perceptual_hash(b), 16)).bit_count()


def test_a_perceptual_hash_stays_what_it_is() -> None:
    # Remembered rows and artifacts hold these; another value means another hash, and all of them must go.
    assert perceptual_hash(texture(seed=1)) == "72b37ac86cee1914"
    assert perceptual_hash(texture(90, 70, seed=4)) == "bda3bae2c30430de"
    assert perceptual_hash(np.full((50, 60, 3), 77, np.uint8)) == "0" * 16


def test_near_duplicates_have_near_hashes_and_others_far_ones() -> None:
    picture = texture(seed=2)
    recompressed = opened(encode(picture, "JPEG", quality=40)).pixels
    smaller = cv2.resize(picture, (200, 150), interpolation=cv2.INTER_AREA).astype(np.uint8)
    brighter = cv2.convertScaleAbs(picture, alpha=0.8, beta=30).astype(np.uint8)
    assert max(distance(picture, other) for other in (recompressed, smaller, brighter)) <= 4
    assert min(distance(picture, texture(seed=seed)) for seed in range(3, 13)) >= 16
