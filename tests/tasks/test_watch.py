"""What landed in a data set since it was last told of."""

import os
from pathlib import Path

import pytest

from tasks.core.errors import ParamsError
from tasks.core.settings import settings
from tasks.core.store import LocalStore
from tasks.watch import Look, look, read_mark, write_mark


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(6):
        file = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"%d" % number)
    return tmp_path / "pictures"


def test_new_and_changed_images_have_landed(pictures: Path) -> None:
    before = look(str(pictures))
    assert before.landed_since(None) == 6
    assert look(str(pictures)).landed_since(before) == 0
    (pictures / "a" / "new.png").write_bytes(b"new")
    (pictures / "b" / "1.png").write_bytes(b"changed")
    now = look(str(pictures))
    assert now.landed_since(before) == 2
    assert now.digest != before.digest


def test_what_went_or_is_no_image_has_not_landed(pictures: Path) -> None:
    before = look(str(pictures))
    (pictures / "a" / "0.png").unlink()
    (pictures / "a" / "notes.txt").write_text("no image")
    (pictures / "stray.png").write_bytes(b"in no class")
    assert look(str(pictures)).landed_since(before) == 0


def test_an_image_out_of_reach_behind_its_link_has_landed_when_it_is_back(pictures: Path, tmp_path: Path) -> None:
    (pictures / "a" / "linked.png").symlink_to(tmp_path / "away.png")
    before = look(str(pictures))
    assert before.landed_since(None) == 7
    (tmp_path / "away.png").write_bytes(b"back")
    assert look(str(pictures)).landed_since(before) == 1


def test_the_digest_is_of_what_is_there(pictures: Path) -> None:
    digest = look(str(pictures)).digest
    file = pictures / "a" / "0.png"
    when = file.stat()
    file.unlink()
    assert look(str(pictures)).digest != digest
    file.write_bytes(b"0")
    os.utime(file, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert look(str(pictures)).digest == digest


def test_a_data_set_that_holds_the_store_is_refused(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, is_refused in {"gesso": True, ".gesso/store": False}.items():
        monkeypatch.setenv("GESSO_STORE", str(pictures / place))
        settings.cache_clear()
        if is_refused:
            with pytest.raises(ParamsError, match=f"store {pictures}/gesso lies in the data set {pictures}"):
                look(str(pictures))
        else:
            assert look(str(pictures)).landed_since(None) == 6


def test_the_mark_is_kept_per_data_set(pictures: Path, store: LocalStore) -> None:
    assert read_mark(store, str(pictures)) is None
    seen = look(str(pictures))
    write_mark(store, str(pictures), seen)
    again = read_mark(store, str(pictures))
    assert isinstance(again, Look)
    assert again.digest == seen.digest
    assert read_mark(store, "s3://bucket/pictures") is None
