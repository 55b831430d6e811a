import csv
import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from tasks import contract
from tasks.core.artifacts import Artifact, Inputs, Output
from tasks.core.checkpoint import Checkpoint
from tasks.core.errors import DataError, ParamsError
from tasks.core.store import LocalStore
from tasks.validate import BUILT_IN, Params, contract_tables, observe, run

from .artifacts_by_hand import committed, output

RunStep = Callable[..., Artifact]
HOSTILE = '"><img src=x onerror=alert(1)>'
LENIENT = """
expectations:
  - meaning: Something can be read.
    severity: error
    table: dataset
    expectation: ExpectColumnValuesToBeBetween
    kwargs: {column: readable, min_value: 1}
"""


def row(key: str, content: object = None, phash: int | None = None, error: str = "") -> dict[str, Any]:
    """A row of scan.parquet; a picture of its own unless content or phash are given."""
    seed = int.from_bytes(hashlib.sha256(repr(content or key).encode()).digest()[:4])
    bits = np.random.default_rng(seed).permutation(np.repeat([0, 1], 32))
    look = int("".join(map(str, bits)), 2) if phash is None else phash
    good = not error
    return {
        "key": key, "class": key.partition("/")[0], "bytes": 1000, "etag": "e", "version": None,
        "modified": pd.Timestamp("2022-08-01", tz="UTC"), "status": "ok" if good else "unreadable", "error": error,
        "note": "", "width": 300 * good, "height": 400 * good, "format": "jpeg" if good else "",
        "mode": "RGB" if good else "", "frames": int(good), "orientation": 1, "has_alpha": False,
        "sha256": hashlib.sha256(repr(content or key).encode()).hexdigest(),
        "phash": f"{look:016x}" if good else "",
        "brightness": np.float32(200 * good), "sharpness": np.float32(100 * good),
        "hue": np.float32(0), "lightness": np.float32(0), "saturation": np.float32(0),
    }  # fmt: skip


def some(name: str, count: int) -> list[dict[str, Any]]:
    return [row(f"{name}/{number:04}.jpg") for number in range(count)]


@pytest.fixture
def scan(store: LocalStore, tmp_path: Path) -> Callable[..., list[Artifact]]:
    """Artifacts of `scan` with these rows."""
    folder = tmp_path / "scans"
    folder.mkdir()

    def made(rows: Iterable[dict[str, Any]], shards: int = 1) -> list[Artifact]:
        table = pd.DataFrame(list(rows)).sort_values("key", ignore_index=True)
        artifacts = []
        for shard in range(shards):
            out = output(folder, store, "scan")
            out.table("scan.parquet", table.iloc[shard::shards])
            artifacts.append(committed(out, "scan", shard=shard, shards=shards))
        return artifacts

    return made


@pytest.fixture
def lenient(tmp_path: Path) -> str:
    path = tmp_path / "lenient.yaml"
    path.write_text(LENIENT)
    return str(path)


ROWS = [
    row("L2_3/a.jpg", "one"),
    row("L2_3/b.jpg", "one"),
    row("L2_3/c.jpg", "shared"),
    row("L2_3/d.jpg", phash=0x0123456789ABCDEF),
    row("L2_10/a.jpg", "shared"),
    row("L2_10/b.jpg", "shared"),
    row("L2_10/c.jpg", phash=0x0123456789ABCDEE),
    row("L2_10/=1+1.jpg", error="truncated JPEG"),
    row(f"{HOSTILE}/한 글.jpg"),
]


def test_every_image_gets_a_verdict_and_a_reason(
    scan: Callable[..., list[Artifact]], run_step: RunStep, lenient: str
) -> None:
    made = run_step("validate", {"scan": scan(ROWS)}, expectations=lenient)

    images = made.table("images.parquet").set_index("key")
    assert images.index.is_monotonic_increasing
    assert {key: tuple(image) for key, image in images[["verdict", "reason"]].T.items()} == {
        "L2_3/a.jpg": ("kept", ""),
        "L2_3/b.jpg": ("duplicate", "same bytes as L2_3/a.jpg"),
        "L2_3/c.jpg": ("conflict", "same bytes as L2_10/a.jpg, in another class"),
        "L2_3/d.jpg": ("kept", ""),
        "L2_10/a.jpg": ("conflict", "same bytes as L2_3/c.jpg, in another class"),
        "L2_10/b.jpg": ("conflict", "same bytes as L2_3/c.jpg, in another class"),
        "L2_10/c.jpg": ("kept", ""),
        "L2_10/=1+1.jpg": ("quarantined", "truncated JPEG"),
        f"{HOSTILE}/한 글.jpg": ("kept", ""),
    }
    group = images["duplicate_group"]
    assert group["L2_3/d.jpg"] == group["L2_10/c.jpg"]
    assert (group["L2_10/=1+1.jpg"], images.loc["L2_10/=1+1.jpg", "exact_group"]) == (-1, -1)
    assert group.nunique() == 5
    assert images["duplicates"].to_dict() == images.index.to_series().map(
        lambda key: 0 if key == "L2_10/=1+1.jpg" else (group == group[key]).sum()
    ).to_dict()  # fmt: skip
    assert made.table("duplicates.parquet").groupby("kind")["key"].apply(set).to_dict() == {
        "exact": {"L2_3/a.jpg", "L2_3/b.jpg", "L2_3/c.jpg", "L2_10/a.jpg", "L2_10/b.jpg"},
        "near": {"L2_3/d.jpg", "L2_10/c.jpg"},
    }
    assert made.metrics == {
        "images": 9, "kept": 4, "quarantined": 1, "duplicates": 1, "conflicts": 3, "dissolved": 0, "warnings": 0
    }  # fmt: skip


def test_the_csv_is_read_back_whole_and_holds_no_formula(
    scan: Callable[..., list[Artifact]], run_step: RunStep, lenient: str
) -> None:
    rows = [*ROWS, row("=cmd|'/c calc'!A1/a,\"b\n.jpg", error="truncated PNG")]
    made = run_step("validate", {"scan": scan(rows)}, expectations=lenient)

    with made.path("quarantine.csv").open(encoding="utf-8-sig", newline="") as file:
        read = list(csv.DictReader(file))
    assert {"key": "'=cmd|'/c calc'!A1/a,\"b\n.jpg", "class": "'=cmd|'"} in [
        {"key": line["key"], "class": line["class"]} for line in read
    ]
    assert len(read) == 6
    assert not any(value.startswith(("=", "+", "-", "@")) for line in read for value in line.values())


def test_tables_are_the_same_whatever_the_number_of_shards(
    scan: Callable[..., list[Artifact]], run_step: RunStep, lenient: str
) -> None:
    one, three = (
        run_step("validate", {"scan": scan(ROWS, shards)}, expectations=lenient).path("images.parquet").read_bytes()
        for shards in (1, 3)
    )
    assert one == three


def test_the_same_data_gives_the_same_bytes(
    scan: Callable[..., list[Artifact]], store: LocalStore, tmp_path: Path, lenient: str
) -> None:
    inputs, params = Inputs({"scan": scan([*ROWS, *some("L2_12", 3)])}), Params(expectations=lenient)
    written = []
    for name in ("one", "two"):
        out = Output(tmp_path / name, store, Checkpoint(store, "validate"))
        _, out.observed = observe(inputs, params, out)
        run(inputs, params, out)
        written.append({name: path.read_bytes() for name, path in out.files()})
    assert written[0] == written[1]
    assert set(written[0]) == {
        "images.parquet", "duplicates.parquet", "quarantine.csv", "findings.json", "validation.json",
        "data_docs/index.html",
        "expectations.yaml",
    }  # fmt: skip
    assert not re.search(rb"20\d\d-?[01]\d-?\d\d[T ]", written[0]["validation.json"])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [*some("L2_3", 30), *some("L2_10", 1)],
            [r"Every class has enough usable images to train on", r"Seen: 1 of 2 classes \(L2_10: 1\)",
             r"Allowed: at least 2", r"ExpectColumnValuesToBeBetween of classes\.usable", "built-in images.yaml"],
        ),
        (
            [*some("L2_3", 30), *some("L2_12", 30), row("L2_10/a.jpg", error="0 bytes"), row("L2_10/b.jpg", error="x")],
            [r"Every class has an image that can be read\. Seen: 1 of 3 classes \(L2_10: 0\)"],
        ),
        (
            some("L2_3", 30),
            [r"There are two or more classes", r"Seen: 1\. Allowed: at least 2", "fails 1 of"],
        ),
        (
            [*some("L2_3", 10), *some("L2_10", 10), *(row(f"L2_3/x{n}.jpg", error="0 bytes") for n in range(10))],
            [r"Most images can be read\. Seen: 0\.667\. Allowed: at least 0\.8"],
        ),
        (
            [*some("L2_3", 10), *some("L2_10", 10), *(row(f"L2_3/x{n}.jpg", "same") for n in range(30))],
            [r"Most images are their class's only copy\. Seen: 0\.58\. Allowed: at most 0\.5"],
        ),
        (
            [*some("L2_3", 10), *some("L2_10", 10), *(row(f"L2_{n}/x.jpg", "same") for n in (3, 10, 3))],
            [r"Hardly any image is in two classes.*Seen: 0\.13\. Allowed: at most 0\.1"],
        ),
    ],
    ids=["class of one image", "unreadable class", "one class", "undecodable", "duplicates", "conflicts"],
)  # fmt: skip
def test_a_failed_error_says_what_was_seen_and_allowed_and_keeps_the_evidence(
    rows: list[dict[str, Any]], said: list[str], scan: Callable[..., list[Artifact]], run_step: RunStep,
    store: LocalStore,
) -> None:  # fmt: skip
    with pytest.raises(DataError) as error:
        run_step("validate", {"scan": scan(rows)})
    for words in said:
        assert re.search(words, str(error.value))
    kept = {found.key.split("/", 3)[3] for found in store.list("failed/validate/")}
    assert {"findings.json", "data_docs/index.html", "quarantine.csv", "images.parquet"} <= kept
    assert "failed/validate/" in str(error.value)


def test_warnings_are_findings_and_the_run_goes_on(scan: Callable[..., list[Artifact]], run_step: RunStep) -> None:
    rows = [*some("L2_3", 300), *some("L2_10", 4), row("L2_10/x.gif") | {"width": 4}]
    made = run_step("validate", {"scan": scan(rows)})

    failed = {each["expectation"]: each for each in made.json("findings.json") if not each["success"]}
    assert {each["severity"] for each in failed.values()} == {"warning"}
    assert made.metrics["warnings"] == len(failed) == 3
    assert failed["ExpectColumnValuesToBeBetween of images.width"]["observed"] == "1 of 305 images (L2_10/x.gif: 4)"
    assert failed["ExpectColumnValuesToBeBetween of dataset.imbalance"]["observed"] == "60"
    assert failed["ExpectColumnValuesToBeBetween of classes.usable"]["allowed"] == "at least 20"


def test_look_alikes_in_two_classes_are_a_warning(scan: Callable[..., list[Artifact]], run_step: RunStep) -> None:
    alike = [row(f"{name}/x.jpg", phash=0x0123456789ABCDEF) for name in ("L2_3", "L2_10")]
    made = run_step("validate", {"scan": scan([*some("L2_3", 30), *some("L2_10", 30), *alike])})
    (mixed,) = [each for each in made.json("findings.json") if not each["success"]]
    assert (mixed["expectation"], mixed["observed"]) == ("ExpectColumnValuesToBeBetween of dataset.mixed_groups", "1")


def test_chains_of_alike_pictures_are_a_warning(
    scan: Callable[..., list[Artifact]], run_step: RunStep, lenient: str
) -> None:
    alike = [row(f"L2_3/{number:02}.jpg", phash=0x0123456789ABCDEF) for number in range(60)]
    made = run_step("validate", {"scan": scan([*alike, *some("L2_10", 5)])}, expectations=lenient)
    (chain,) = [each for each in made.json("findings.json") if not each["success"]]
    assert (chain["severity"], chain["observed"]) == ("warning", "groups of 60 images")
    assert made.metrics["dissolved"] == 60
    assert "Lower near_duplicate_bits" in chain["message"]
    assert made.table("images.parquet")["duplicates"].max() == 1


def test_the_data_docs_load_nothing_and_show_hostile_names_as_text(
    scan: Callable[..., list[Artifact]], run_step: RunStep
) -> None:
    rows = [*some("L2_3", 30), *some(HOSTILE, 3), *some("<script>alert(2)</script>", 3), *some("$body ${x}", 3)]
    made = run_step("validate", {"scan": scan(rows)})

    page = made.path("data_docs/index.html").read_text()
    assert "3 of 4 classes" in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "$body ${x}" in page
    assert not re.search(r"<(script|img|link|iframe|object)\b|url\(|@import|(src|href)\s*=\s*\S*//", page)
    assert "default-src 'none'" in page


def test_the_original_data_set_meets_the_built_in_contract() -> None:
    sizes = {
        "L2_3": 595, "L2_10": 1893, "L2_12": 518, "L2_15": 1509, "L2_20": 410, "L2_21": 410, "L2_24": 782,
        "L2_25": 6189, "L2_27": 426, "L2_30": 364, "L2_33": 6206, "L2_34": 419, "L2_39": 454, "L2_40": 180,
        "L2_41": 593, "L2_44": 547, "L2_45": 631, "L2_46": 2214, "L2_50": 781, "L2_52": 382,
    }  # fmt: skip
    names = np.repeat(list(sizes), list(sizes.values()))
    rows = pd.DataFrame([row("L2_3/a.jpg")] * len(names))
    rows = rows.assign(
        key=[f"{name}/{n}.jpg" for n, name in enumerate(names)], verdict="kept", reason="", duplicates=1,
        duplicate_group=range(len(names)), width=np.random.default_rng(0).integers(300, 2481, len(names)),
    )  # fmt: skip
    rows["class"] = names
    suite, tables = contract.parse_suite(BUILT_IN.read_bytes(), "images.yaml"), contract_tables(rows)
    results = contract.check(suite, tables, "images.yaml")
    assert [entry.meaning for entry, result in zip(suite, results, strict=True) if not result["success"]] == []
    assert tables["dataset"]["imbalance"].item() == pytest.approx(6206 / 180)


def test_the_contract_is_known_by_its_content(
    scan: Callable[..., list[Artifact]], run_step: RunStep, lenient: str, tmp_path: Path
) -> None:
    scans = scan(ROWS)
    elsewhere = tmp_path / "deeper" / "copy.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(LENIENT)
    first = run_step("validate", {"scan": scans}, expectations=lenient)
    assert run_step("validate", {"scan": scans}, expectations=str(elsewhere)).key == first.key
    elsewhere.write_text(LENIENT.replace("min_value: 1", "min_value: 2"))
    assert run_step("validate", {"scan": scans}, expectations=str(elsewhere)).key != first.key


def test_a_contract_beside_the_caller_and_in_a_bucket(
    s3: str, tmp_path: Path, lenient: str, monkeypatch: pytest.MonkeyPatch, store: LocalStore
) -> None:
    from tasks.core.store import open_store

    open_store(s3).put("deeper/mine.yaml", LENIENT.encode())
    monkeypatch.chdir(tmp_path)
    out = Output(tmp_path, store, Checkpoint(store, "validate"))
    facts = [
        observe(Inputs({}), Params(expectations=where), out)[0]
        for where in ("lenient.yaml", lenient, f"file://{lenient}", f"{s3}/deeper/mine.yaml")
    ]
    assert facts == [{"expectations": hashlib.sha256(LENIENT.encode()).hexdigest()}] * 4


@pytest.mark.parametrize("where", ["missing.yaml", "/no/such/folder/mine.yaml"])
def test_a_contract_that_is_not_there(where: str, scan: Callable[..., list[Artifact]], run_step: RunStep) -> None:
    with pytest.raises(ParamsError, match=rf"expectations = '{where}' can't be read.*no such file"):
        run_step("validate", {"scan": scan(ROWS)}, expectations=where)


def test_a_real_scan_is_validated(run_step: RunStep, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("L2_3", "L2_10"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            picture = cv2.resize(random.integers(0, 255, (6, 6, 3), np.uint8), (80, 60), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(tmp_path / "data" / name / f"{number:02}.png"), picture)
    folder = tmp_path / "data" / "L2_3"
    cv2.imwrite(str(folder / "small.jpg"), cv2.resize(cv2.imread(str(folder / "00.png")), (60, 45)))
    (folder / "copy.png").write_bytes((folder / "01.png").read_bytes())
    (folder / "broken.png").write_bytes((folder / "02.png").read_bytes()[:500])
    snapshot = run_step("snapshot", dataset=str(tmp_path / "data"))
    shards = [run_step("scan", {"snapshot": snapshot}, shard=shard, shards=2) for shard in (0, 1)]
    made = run_step("validate", {"scan": shards})

    images = made.table("images.parquet").set_index("key")
    assert images["verdict"].value_counts().to_dict() == {"kept": 25, "duplicate": 1, "quarantined": 1}
    assert images.loc["L2_3/broken.png", "reason"] == "truncated PNG"
    assert images.loc["L2_3/small.jpg", "duplicate_group"] == images.loc["L2_3/00.png", "duplicate_group"]
    assert set(shards[0].table("scan.parquet").columns) <= {"key", *images.columns}
