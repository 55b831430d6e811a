from pathlib import Path

import cv2
import numpy as np

from tasks.core.figures import contact_sheet, figure


def test_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        with figure(tmp_path / name) as axes:
            axes.bar(["$\\frac{x}$", "<b>"], [1, 2])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert "$\\frac{x}$" in (tmp_path / "a.svg").read_text(), "a class name is not mathematics"


def test_a_sheet_holds_its_tiles_in_rows(tmp_path: Path) -> None:
    red = np.full((50, 20, 3), (255, 0, 0), np.uint8)
    jpeg = cv2.imencode(".jpg", red[:, :, ::-1])[1].tobytes()

    contact_sheet([red, jpeg, red], tmp_path / "sheet.jpg", columns=2, side=60)

    sheet = cv2.imread(str(tmp_path / "sheet.jpg"))[:, :, ::-1]
    assert sheet.shape == (2 * 64 + 4, 2 * 64 + 4, 3)
    for top, left in ((34, 34), (34, 98), (98, 34)):
        assert sheet[top, left, 0] > 200 > 60 > sheet[top, left, 1]
    assert sheet[98, 98].min() > 240


def test_an_empty_sheet_is_white(tmp_path: Path) -> None:
    contact_sheet([], tmp_path / "sheet.jpg")
    assert cv2.imread(str(tmp_path / "sheet.jpg")).min() == 255
