import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tasks.core.errors import DataError
from tasks.vision import export, images, models
from tasks.vision.calibration import calibrated

SIZE = 48
LABELS = ["L2_3", "꽃 $x$", 'a"b\n']


def drawing(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, lines and noise, uint8 RGB."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([rows * 255 / height, columns * 255 / width, (rows + columns) % 256], axis=2)
    picture[:: max(2, height // 7)] = 20
    return np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)


def encoded(picture: PIL.Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x010F] = "a maker"  # another tag before it
    exif[0x0112] = orientation
    return exif


def transparent(height: int, width: int) -> PIL.Image.Image:
    alpha = np.random.default_rng(1).integers(0, 256, (height, width, 1), dtype=np.uint8)
    return PIL.Image.fromarray(np.concatenate([drawing(height, width), alpha], axis=2))


def rgb(height: int, width: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(drawing(height, width))


FILES = {
    **{f"jpeg {height}x{width}": encoded(rgb(height, width), "JPEG") for height, width in [
        (48, 48), (47, 47), (96, 96), (97, 130), (227, 227), (300, 500), (20, 31), (30, 200), (900, 411), (1, 1),
    ]},
    **{f"png {height}x{width}": encoded(rgb(height, width), "PNG") for height, width in [
        (48, 48), (144, 96), (192, 192), (227, 227), (401, 403), (13, 60),
    ]},
    "grey jpeg": encoded(rgb(120, 90).convert("L"), "JPEG"),
    "cmyk jpeg": encoded(rgb(120, 90).convert("CMYK"), "JPEG"),
    "progressive jpeg, 4:4:4": encoded(rgb(150, 140), "JPEG", progressive=True, subsampling=0),
    **{f"jpeg turned {way}": encoded(rgb(100, 60), "JPEG", exif=turned(way)) for way in range(1, 10)},
    "jpeg turned by xmp alone": encoded(
        rgb(100, 60), "JPEG", xmp=b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    ),
    "png turned": encoded(rgb(100, 60), "PNG", exif=turned(6)),
    "grey png": encoded(rgb(60, 70).convert("L"), "PNG"),
    "grey png with alpha": encoded(transparent(60, 70).convert("LA"), "PNG"),
    "transparent png": encoded(transparent(110, 70), "PNG"),
    "palette png": encoded(rgb(60, 70).quantize(16), "PNG", transparency=3),
    "opaque palette png of 4 bits": encoded(rgb(60, 70).quantize(16), "PNG"),
    "opaque palette png of 2 bits": encoded(rgb(60, 70).quantize(4), "PNG"),
    "palette png of 1 bit": encoded(rgb(60, 70).quantize(2), "PNG", transparency=1),
    "black and white png": encoded(rgb(60, 70).convert("1"), "PNG"),
    "16-bit png": encoded(PIL.Image.fromarray(drawing(60, 70)[..., 0].astype(np.uint16) * 251), "PNG"),
}  # fmt: skip


def as_trained_on(contents: bytes) -> np.ndarray:
    return images.resize(images.open_image(contents, max_pixels=10**7, min_side=SIZE).pixels, SIZE)


@pytest.fixture(scope="module")
def network():
    """A network whose batch norm has seen pictures, so that its answers differ from one to the other."""
    model = models.build("residual", SIZE, len(LABELS), seed=0)
    seen = np.stack([as_trained_on(contents) for contents in FILES.values()])
    for _ in range(30):
        model(seen, training=True)
    return model


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "saved"
    export.write(network, LABELS, 1.7, folder)
    return folder


@pytest.fixture(scope="module")
def opened(folder) -> export.Export:
    return export.Export(folder)


def by_label(names: list[list[str]], probabilities: np.ndarray) -> np.ndarray:
    assert (np.diff(probabilities) <= 0).all(), "best first"
    ordered = np.empty_like(probabilities)
    np.put_along_axis(ordered, np.array([[LABELS.index(name) for name in row] for row in names]), probabilities, axis=1)
    return ordered


@pytest.fixture(scope="module")
def decode():
    import tensorflow as tf

    signature = [tf.TensorSpec((), tf.string)]
    return tf.function(lambda file: export.square(export.open_file(file, SIZE), SIZE), input_signature=signature)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_decoded_and_resized_as_for_training(name, decode):
    difference = np.abs(decode(FILES[name]).numpy().astype(int) - as_trained_on(FILES[name]))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01, "a mean that lies between two levels may fall to either"


def test_files_in_names_and_calibrated_probabilities_out(network, opened):
    given = by_label(*opened.of_files([*FILES.values()]))
    pixels = np.stack([as_trained_on(contents) for contents in FILES.values()])
    wanted = calibrated(network.predict_on_batch(pixels), 1.7)
    assert wanted.std(axis=0).max() > 0.05, "the network does look"
    np.testing.assert_allclose(given, wanted, atol=export.TOLERANCE)


def test_pixels_in_names_and_calibrated_probabilities_out(network, opened):
    pixels = np.stack([drawing(SIZE, SIZE, seed) for seed in range(5)])
    assert opened.size == SIZE
    wanted = calibrated(network.predict_on_batch(pixels), 1.7)
    np.testing.assert_allclose(by_label(*opened.of_pixels(pixels)), wanted, atol=export.TOLERANCE)


def test_a_difference_from_the_training_code_is_measured(network, opened):
    pixels = np.stack([drawing(SIZE, SIZE, seed) for seed in range(5)])
    wanted = calibrated(network.predict_on_batch(pixels), 1.7)
    assert export.difference(opened, pixels, LABELS, wanted) < export.TOLERANCE
    wanted[3, 1] += 0.01
    assert export.difference(opened, pixels, LABELS, wanted) == pytest.approx(0.01, abs=1e-4)


@pytest.mark.parametrize("contents", [b"", b"no image", FILES["jpeg 300x500"][:40], b"GIF89a and more"], ids=str)
def test_what_is_no_image_is_an_error_and_not_an_answer(opened, contents):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError):
        opened.of_files([contents])


@pytest.mark.parametrize(
    ("at", "damage"),
    [
        pytest.param(0, b"XX", id="no byte order"),
        pytest.param(4, b"\x7f\xff\xff\xff", id="a directory beyond the end"),
        pytest.param(8, b"\0\0", id="a directory of no entries"),
        pytest.param(22, b"\x01\x13", id="no entry of orientation"),
        pytest.param(30, b"\0\0", id="an orientation of 0"),
        pytest.param(30, b"\0\x09", id="an orientation of 9"),
    ],
)
def test_damaged_exif_is_no_exif(at, damage):
    """`at` counts from the TIFF header; the orientation is the second entry of its directory."""
    import tensorflow as tf

    good = FILES["jpeg turned 6"]
    start = good.index(b"Exif\0\0MM") + 6
    assert int(export._orientation(tf.constant(good))) == 6
    assert int(export._orientation(tf.constant(good[: start + at] + damage + good[start + at + len(damage) :]))) == 1


def test_random_damage_to_exif_never_raises():
    import tensorflow as tf

    good = FILES["jpeg turned 6"]
    start = good.index(b"Exif\0\0") + 6
    rng, found = np.random.default_rng(0), set()
    for _ in range(40):
        head = bytearray(good)
        for at in rng.integers(start + 4, start + 40, 3):
            head[at] = rng.integers(0, 256)
        found.add(int(export._orientation(tf.constant(bytes(head)))))
    assert found <= set(range(1, 9))
    assert {1, 6} <= found  # some damage hits the entry, some misses it


def test_the_same_network_gives_the_same_bytes(network, folder, tmp_path):
    export.write(network, LABELS, 1.7, tmp_path / "again")
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = tmp_path / "again"
    assert {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()} == files


def test_a_large_network_keeps_its_weights_beside_the_graph(network, folder, opened, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LARGE", network.count_params())
    kept = [tmp_path / name for name in ("large", "again")]
    for each in kept:
        export.write(network, LABELS, 1.7, each)
    files = [{path.relative_to(each): path.read_bytes() for path in each.rglob("*") if path.is_file()} for each in kept]
    assert files[0] == files[1]
    beside = sum(len(data) for path, data in files[0].items() if path.parts[0] == "variables")
    assert beside > 4 * network.count_params()
    graph = len(files[0][Path("saved_model.pb")])
    assert graph < 4 * network.count_params() < (folder / "saved_model.pb").stat().st_size

    pixels = np.stack([as_trained_on(contents) for contents in FILES.values()])
    names, probabilities = opened.of_pixels(pixels)
    large = export.Export(kept[0])
    for answer in (large.of_pixels(pixels), large.of_files(list(FILES.values()))):
        np.testing.assert_allclose(by_label(*answer), by_label(names, probabilities), atol=export.TOLERANCE)


def test_it_needs_nothing_of_gesso(folder, tmp_path):
    (tmp_path / "picture.jpg").write_bytes(FILES["jpeg 227x227"])
    code = (
        "import sys, tensorflow as tf; ask = tf.saved_model.load(sys.argv[1]).signatures['serving_default'];"
        "print(ask(images=tf.constant([open(sys.argv[2], 'rb').read()]))['probabilities'].numpy().sum());"
        "print([name for name in sys.modules if name.partition('.')[0] == 'tasks'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "picture.jpg")],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    total, loaded = done.stdout.splitlines()[-2:]
    assert float(total) == pytest.approx(1)
    assert loaded == "[]"


def test_a_folder_without_an_export(tmp_path):
    with pytest.raises(DataError, match="is not an export that TensorFlow can read"):
        export.Export(tmp_path)
