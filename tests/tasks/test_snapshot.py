"""The data set is listed as it was, and what is left out is counted."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks import snapshot
from tasks.core.artifacts import Artifact
from tasks.core.errors import DataError, ParamsError
from tasks.core.store import LocalStore, open_store
from tests.conftest import run_in

RunStep = Callable[..., Artifact]
SCRIPT = '"><img src=x onerror=alert(1)>'


def write(folder: Path, *names: str) -> Path:
    """A data set of files whose contents are their names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def keys(artifact: Artifact) -> list[str]:
    return list(artifact.table("images.parquet")["key"])


def test_a_folder_is_listed_with_all_that_is_known(run_step: RunStep, tmp_path: Path) -> None:
    data = write(tmp_path / "data", "b/2.PNG", "a/deep/er/1.jpg")
    stamp = datetime(2024, 3, 1, 12, 0, 0, 250_000, UTC)
    os.utime(data / "b/2.PNG", (stamp.timestamp(), stamp.timestamp()))
    made = run_step("snapshot", dataset=str(data))
    images = made.table("images.parquet")
    assert list(images.columns) == ["key", "class", "bytes", "etag", "version", "modified"]
    assert list(images["key"]) == ["a/deep/er/1.jpg", "b/2.PNG"]
    assert list(images["class"]) == ["a", "b"]
    assert list(images["bytes"]) == [15, 7]
    assert images["version"].isna().all()
    assert images["modified"][1] == stamp
    facts = made.json("snapshot.json")
    assert facts["dataset"] == str(data.resolve())
    assert (facts["versioned"], facts["images"], facts["bytes"]) == (False, 2, 22)
    assert facts["classes"] == {"a": 1, "b": 1}
    assert made.metrics == {"images": 2, "classes": 2, "bytes": 22, "ignored": 0, "versioned": False}


@pytest.mark.parametrize(
    "name",
    ["with space.jpg", "한국어 그림.png", "🎨.webp", "=cmd|calc.gif", "x" * 200 + ".jpg", "no.dots.in.vain.jpeg"],
    ids=["space", "korean", "emoji", "formula", "long", "dots"],
)
def test_names_are_taken_as_they_are(run_step: RunStep, tmp_path: Path, name: str) -> None:
    data = write(tmp_path / "data", f"{SCRIPT}/{name}", "b/2.png")
    made = run_step("snapshot", dataset=str(data))
    assert f"{SCRIPT}/{name}" in keys(made)
    assert made.json("snapshot.json")["classes"] == {SCRIPT: 1, "b": 1}


def test_what_is_no_image_is_counted_by_reason(run_step: RunStep, tmp_path: Path) -> None:
    data = write(
        tmp_path / "data",
        *("a/1.jpg", "b/2.png", "a/.DS_Store", "a/Thumbs.db", ".git/x/1.jpg", "__MACOSX/a/1.jpg", "a/.hidden/1.jpg"),
        *("loose.jpg", "README.md", "a/notes.txt", "a/photo.heic", "a/noextension"),
    )
    with open(os.fsencode(data / "a") + b"/\xff\xfe.jpg", "wb"):
        pass
    made = run_step("snapshot", dataset=str(data))
    assert keys(made) == ["a/1.jpg", "b/2.png"]
    assert made.json("snapshot.json")["ignored"] == {
        "hidden or system files": 5,
        "not in a class folder": 2,
        "not images (.heic)": 1,
        "not images (.txt)": 1,
        "not images (no extension)": 1,
        "with a name that is not UTF-8": 1,
    }
    assert made.metrics["ignored"] == 11


def test_what_came_to_an_unchanged_data_set_and_is_ignored_is_logged(
    run_step: RunStep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data", "a/1.jpg", "b/2.png")
    first = run_step("snapshot", dataset=str(data))
    assert "snapshot: 2 images; ignored: nothing" in capsys.readouterr().out
    write(data, "a/photo.heic", "loose.jpg")
    assert run_step("snapshot", dataset=str(data)).key == first.key
    assert "snapshot: 2 images; ignored: 1 not images (.heic); 1 not in a class folder" in capsys.readouterr().out


def test_reasons_stay_few_however_many_extensions_there_are(run_step: RunStep, tmp_path: Path) -> None:
    data = write(tmp_path / "data", "a/1.jpg", "b/2.png", *(f"a/x.{i}" for i in range(50)))
    ignored = run_step("snapshot", dataset=str(data)).json("snapshot.json")["ignored"]
    assert len(ignored) == snapshot.REASONS + 1
    assert sum(ignored.values()) == 50


def test_a_folder_as_of_an_instant_goes_by_modification_time(run_step: RunStep, tmp_path: Path) -> None:
    data = write(tmp_path / "data", "a/old.jpg", "b/old.jpg", "b/new.jpg")
    march = datetime(2024, 3, 1, tzinfo=UTC)
    for name, when in {"a/old.jpg": march, "b/old.jpg": march, "b/new.jpg": march + timedelta(days=1)}.items():
        os.utime(data / name, (when.timestamp(), when.timestamp()))
    made = run_step("snapshot", dataset=str(data), as_of=march)
    facts = made.json("snapshot.json")
    assert keys(made) == ["a/old.jpg", "b/old.jpg"]
    assert facts["versioned"] is False
    assert facts["note"].startswith("This data set keeps no versions")
    with pytest.raises(DataError, match=r"no images below .* as of 2024-02-01.* Ignored: 3 newer than that\."):
        run_step("snapshot", dataset=str(data), as_of=march - timedelta(days=29))


def test_an_unchanged_data_set_gives_the_same_snapshot(run_step: RunStep, tmp_path: Path) -> None:
    data = write(tmp_path / "data", "a/1.jpg", "b/2.png")
    now = datetime.now(UTC) + timedelta(hours=1)
    first = run_step("snapshot", dataset=str(data))
    (tmp_path / "link").symlink_to(data)
    assert run_step("snapshot", dataset=str(data), as_of=now).key == first.key
    assert run_step("snapshot", dataset=f"file://{data}/").key == first.key
    assert run_step("snapshot", dataset=str(tmp_path / "link")).key == first.key
    (data / "a/1.jpg").write_text("another picture")
    changed = run_step("snapshot", dataset=str(data))
    assert changed.key != first.key
    write(data, "a/3.jpg")
    assert run_step("snapshot", dataset=str(data)).key not in (first.key, changed.key)


def test_link_loops_end_and_links_are_followed(run_step: RunStep, tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", "3.jpg")
    data = write(tmp_path / "data", "a/1.jpg", "b/2.png")
    (data / "a" / "up").symlink_to(data)
    (data / "b" / "self").symlink_to(data / "b")
    (data / "b" / "round.jpg").symlink_to(data / "b" / "round.jpg")
    (data / "b" / "nowhere.jpg").symlink_to(data / "gone.jpg")
    (data / "c").symlink_to(elsewhere)
    assert {"a/1.jpg", "b/2.png", "c/3.jpg"} <= set(keys(run_step("snapshot", dataset=str(data))))


def test_an_image_behind_a_link_that_leads_nowhere_is_listed(run_step: RunStep, tmp_path: Path) -> None:
    data, away = write(tmp_path / "data", "a/1.jpg", "b/2.png"), write(tmp_path / "away", "3.jpg")
    links = {"a/3.jpg": away / "3.jpg", "a/round.jpg": data / "a/round.jpg", "b/through.jpg": data / "b/2.png/x.jpg"}
    for name, target in links.items():
        (data / name).symlink_to(target)
    there = run_step("snapshot", dataset=str(data))
    away.rename(tmp_path / "unmounted")
    gone = run_step("snapshot", dataset=str(data))
    assert keys(gone) == keys(there) == ["a/1.jpg", "a/3.jpg", "a/round.jpg", "b/2.png", "b/through.jpg"]
    assert gone.key != there.key, "what lies behind it may be another image when it is back"
    (tmp_path / "unmounted").rename(away)
    assert run_step("snapshot", dataset=str(data)).key == there.key


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "There are no images below"),
        (("loose.jpg",), "Expected class/name.jpg. Ignored: 1 not in a class folder"),
        (("a/notes.txt", "b/.DS_Store"), "Ignored: 1 hidden or system files; 1 not images"),
        (("a/1.jpg", "a/2.jpg", "b/3.txt"), "There is only one class below .*: 'a', 2 images"),
    ],
    ids=["empty", "loose", "no-images", "one-class"],
)
def test_a_data_set_without_images_of_two_classes_is_refused(
    run_step: RunStep, tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=message):
        run_step("snapshot", dataset=str(write(tmp_path / "data", *names)))


def test_a_folder_that_is_none_is_refused(run_step: RunStep, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        run_step("snapshot", dataset=str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file, not a folder"):
        run_step("snapshot", dataset=str(tmp_path / "file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_refused(run_step: RunStep, tmp_path: Path) -> None:
    data = write(tmp_path / "data", "a/1.jpg", "b/2.jpg")
    (data / "b").chmod(0)
    try:
        with pytest.raises(DataError, match="no permission"):
            run_step("snapshot", dataset=str(data))
    finally:
        (data / "b").chmod(0o755)


@pytest.mark.parametrize("place", ["", "gesso", "a/gesso", "link/gesso"])
def test_a_store_in_the_data_set_is_refused(tmp_path: Path, place: str) -> None:
    data = write(tmp_path / "data", "a/1.jpg", "b/2.jpg")
    (tmp_path / "link").symlink_to(data)
    store = tmp_path / place if place.startswith("link") else data / place
    with pytest.raises(ParamsError, match=r"The artifact store .* the data set.*Move the store") as caught:
        run_in(LocalStore(store), "snapshot", dataset=str(data))
    assert str(store) in str(caught.value)
    assert str(data) in str(caught.value)


@pytest.mark.parametrize("place", ["data/.gesso/store", "data/a/.gesso", "data 2", "", "store"])
def test_a_store_beside_the_data_set_or_hidden_in_it_is_none_of_its_images(tmp_path: Path, place: str) -> None:
    data = write(tmp_path / "data", "a/1.jpg", "b/2.jpg")
    store = LocalStore(tmp_path / place)
    store.put("artifacts/eda/0/sheet.png", b"a picture")
    assert keys(run_in(store, "snapshot", dataset=str(data))) == ["a/1.jpg", "b/2.jpg"]


def test_a_store_in_a_bucket_is_beside_the_data_set_or_hidden_in_it(s3_bucket: str) -> None:
    bucket = f"s3://{s3_bucket}"
    put(f"{bucket}/data", "a/1.jpg", "b/2.jpg")
    for dataset, place in (("", ""), ("", "/gesso"), ("/data", "/data"), ("/data/", "/data/x/gesso")):
        with pytest.raises(ParamsError, match=f"The artifact store {bucket}{place} .*the data set"):
            run_in(open_store(bucket + place), "snapshot", dataset=bucket + dataset)
    for place in ("", "/gesso", "/data2", "/data/.gesso"):
        made = run_in(open_store(bucket + place), "snapshot", dataset=f"{bucket}/data")
        assert keys(made) == ["a/1.jpg", "b/2.jpg"]


LONG = "a/" + "/".join("x" * 90 for _ in range(10)) + "/1.jpg"
ODD_KEYS = ["a/../1.jpg", "a//2.jpg", "한국어/그림 🎨.png", "a/ spaces .jpg", LONG, f"{SCRIPT}/3.jpg"]


def put(uri: str, *names: str) -> None:
    store = open_store(uri)
    for name in names:
        store.put(name, name.encode())


def test_a_bucket_is_listed_whatever_its_keys_are(run_step: RunStep, s3: str) -> None:
    put(s3, *ODD_KEYS, "a/.DS_Store", "/nameless.jpg", "loose.jpg", "a/folder/")
    made = run_step("snapshot", dataset=s3)
    assert keys(made) == sorted(ODD_KEYS)
    facts = made.json("snapshot.json")
    assert (facts["dataset"], facts["versioned"]) == (s3, False)
    assert facts["classes"] == {SCRIPT: 1, "a": 4, "한국어": 1}
    assert facts["ignored"] == {"folder markers": 1, "hidden or system files": 1, "not in a class folder": 2}
    assert run_step("snapshot", dataset=s3 + "/").key == made.key


def test_a_bucket_without_versions_is_approximate(run_step: RunStep, s3: str) -> None:
    put(s3, "a/1.jpg", "b/2.jpg")
    facts = run_step("snapshot", dataset=s3, as_of=datetime.now(UTC) + timedelta(seconds=5)).json("snapshot.json")
    assert (facts["versioned"], facts["images"]) == (False, 2)
    assert facts["note"].startswith("This data set keeps no versions")


def age(uri: str, days: dict[str, list[int]]) -> None:
    """Set when the versions and delete markers of each key were made (moto stores nothing else than its own clock)."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    bucket = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[uri.split("/")[2]]
    for name, since in days.items():
        versions = bucket.keys.getlist(f"data/{name}")
        assert len(versions) == len(since)
        for version, day in zip(versions, since, strict=True):
            version.last_modified = datetime(2024, 3, day, tzinfo=UTC).replace(tzinfo=None)


def test_a_bucket_with_versions_is_listed_exactly_as_it_was(run_step: RunStep, s3_versioned: str) -> None:
    store = open_store(s3_versioned)
    put(s3_versioned, "a/stays.jpg", "a/deleted.jpg", "b/stays.jpg", "b/returns.jpg")
    store.put("a/changed.jpg", b"first")
    store.put("a/changed.jpg", b"second one")
    store.delete("a/deleted.jpg")
    store.delete("b/returns.jpg")
    put(s3_versioned, "b/returns.jpg", "b/added.jpg")
    age(
        s3_versioned,
        {
            "a/stays.jpg": [1],
            "b/stays.jpg": [1],
            "a/changed.jpg": [2, 4],
            "a/deleted.jpg": [1, 3],
            "b/returns.jpg": [1, 3, 5],
            "b/added.jpg": [5],
        },
    )

    def sizes(day: int | None) -> dict[str, int]:
        as_of = datetime(2024, 3, day, 12, tzinfo=UTC) if day else None
        made = run_step("snapshot", dataset=s3_versioned, as_of=as_of)
        assert made.metrics["versioned"] is True
        images = made.table("images.parquet")
        for image in images.itertuples():
            assert len(store.get(str(image.key), str(image.version))) == image.bytes
        return dict(zip(images["key"], images["bytes"], strict=True))

    stays = {"a/stays.jpg": 11, "b/stays.jpg": 11}
    assert sizes(1) == {**stays, "a/deleted.jpg": 13, "b/returns.jpg": 13}
    assert sizes(2) == {**stays, "a/deleted.jpg": 13, "b/returns.jpg": 13, "a/changed.jpg": 5}
    assert sizes(3) == {**stays, "a/changed.jpg": 5}
    assert sizes(4) == {**stays, "a/changed.jpg": 10}
    assert sizes(5) == sizes(None) == {**stays, "a/changed.jpg": 10, "b/returns.jpg": 13, "b/added.jpg": 11}


def test_a_listing_of_several_pages_is_whole(run_step: RunStep, s3_versioned: str) -> None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    bucket, server = s3_versioned.split("/")[2], s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    names = [f"{'ab'[number % 2]}/{number:04}.jpg" for number in range(700)]
    for name in names:  # straight into the server's memory: this many requests take a minute
        server.put_object(bucket, f"data/{name}", b"1")
    for name in names[::2]:
        server.put_object(bucket, f"data/{name}", b"22")
    images = run_step("snapshot", dataset=s3_versioned).table("images.parquet")
    assert list(images["key"]) == sorted(names)
    assert images["bytes"].value_counts().to_dict() == {1: 350, 2: 350}


def test_an_unchanged_bucket_gives_the_same_snapshot_at_any_instant(run_step: RunStep, s3_versioned: str) -> None:
    put(s3_versioned, "a/1.jpg", "b/2.jpg")
    made = {
        run_step("snapshot", dataset=s3_versioned, as_of=when).key
        for when in (None, datetime(2100, 1, 1, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC))
    }
    assert len(made) == 1


def test_a_bucket_that_is_none_is_refused(run_step: RunStep, s3: str) -> None:
    with pytest.raises(DataError, match="there is no bucket 'gesso-nowhere'"):
        run_step("snapshot", dataset="s3://gesso-nowhere/data")
    with pytest.raises(DataError, match="There are no images below"):
        run_step("snapshot", dataset=s3)
