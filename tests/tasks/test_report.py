"""The report: everything in it, nothing that runs or loads, names of any kind as text, the same bytes again."""

import base64
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.core.artifacts import Artifact
from tasks.core.errors import ParamsError
from tasks.core.params import ReportParams, TrainParams
from tasks.core.store import LocalStore
from tasks.page import duration
from tasks.report import JUDGING, _not_looked_for, changes, cost, in_need, past_speeds, plan
from tasks.train import parts
from tests.tasks.artifacts_by_hand import a_run, committed, output

RunStep = Callable[..., Artifact]
Report = Callable[..., "Page"]

HOSTILE = {
    '"><img src=x onerror=alert(1)>': 14,
    "</style></title><script>alert(1)</script>": 14,
    "cost $x_2$ and $y {{ 7 * 7 }}": 14,
    "two\nlines\x01 and \u202e": 14,
    "n" * 200: 14,
    "한국어 😀": 14,
}
TAGS = {
    "a", "b", "bdi", "body", "code", "dd", "details", "div", "dl", "dt", "figcaption", "figure", "h1", "h2", "h3", "h4",
    "head", "header", "html", "img", "li", "link", "main", "meta", "nav", "ol", "p", "section", "small", "span",
    "style", "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "time", "title", "tr", "ul",
}  # fmt: skip
ATTRIBUTES = {
    "alt", "aria-hidden", "aria-label", "charset", "class", "content", "data-label", "datetime", "decoding", "height",
    "href", "http-equiv", "id", "lang", "loading", "name", "open", "rel", "role", "scope", "src", "style", "tabindex",
    "title", "width",
}  # fmt: skip


class Page(HTMLParser):
    """A report taken apart: its tags with their attributes, its text, its headings."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.unclosed: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("th", "td"):
            self.texts.append(" ")
        if tag not in ("img", "link", "meta"):
            self.unclosed.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.unclosed:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """What a person reads, white space evened out."""
        return " ".join("".join(self.texts).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of each tag of this name."""
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture
def report(store: LocalStore, tmp_path: Path, run_step: RunStep) -> Report:
    """Makes the artifacts of a run by hand, and its report."""

    def make(params: Mapping[str, Any] | None = None, **facts: Any) -> Page:
        made = a_run(store, tmp_path, **facts)
        scans = made.pop("scan")
        made["eda"] = run_step("eda", {"validate": made["validate"], "scan": scans})
        artifact = run_step("report", made, **(params or {}))
        assert artifact.names() == ["report.html"]
        return Page(artifact.path("report.html").read_text(encoding="utf-8"))

    return make


def assert_harmless(page: Page) -> None:
    assert {tag for tag, _ in page.tags} <= TAGS
    assert {name for _, attributes in page.tags for name in attributes} <= ATTRIBUTES
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            if name in attributes:
                assert re.match(r"#[a-z]+$|data:(image/(jpeg|svg\+xml);base64)?,", attributes[name] or ""), tag
        assert re.fullmatch(r"--size: \d\.\d+", attributes.get("style") or "--size: 0.0")
    policy = next(each["content"] for each in page.all("meta") if each.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    style = page.html[page.html.index("<style>") : page.html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not page.unclosed


def test_all_sections_are_there_the_verdict_first(report: Report) -> None:
    page = report()
    assert_harmless(page)
    sections = [each["id"] for each in page.all("section")]
    assert sections == ["change", "need", "results", "card", "data", "drift", "photographs", "balance", "ledger", "run"]
    assert [each["href"] for each in page.all("a")][1:] == [f"#{id_}" for id_ in ["verdict", *sections]]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), "no level is skipped"
    assert page.all("html") == [{"lang": "en"}]

    text = page.text
    assert text.index("HOLD") < text.index("The champion stays in use.") < text.index("What changed since")
    assert "has 0.775: a difference of +0.014 (90 % interval −0.010 to +0.040)" in text
    assert text.index("failed class drop") < text.index("passed floor"), "what failed first"
    assert "2022-07-29 12:34 UTC. This data set keeps no versions." in text
    assert "2 × hidden file" in text
    assert "1 of 2 expectations is met." in text
    assert "! warning" not in text, "the sign is drawn, not read aloud"
    assert "warning A class is small. images per class L2_10: 9 at least 50" in text
    assert "4 groups of the same bytes, 3 groups that look alike" in text
    assert "drifted class: further than 0.2 since the champion's data" in text
    assert "they were told apart with another photo_threshold, separate then." in text
    assert "class 0.310 the images L2_10 10.0 % L2_10 41.0 %" in text
    assert "6 images are photographs; 3 are unsure" in text
    assert "Files of L2_10: borderline: a line for each row of pictures L2_10/0006.jpg, L2_10/0007.jpg" in text
    assert "ledger.csv" in text
    assert "L2_3 – – – – 2 –" in text, "a class without a score"
    assert "L2_10 0.500 0.500 0.500 0.400 to 0.600 2 0.500" in text
    assert "macro F1 of 0.789 (95 % interval 0.710 to 0.840)" in text
    assert "A temperature of 1.60" in text
    assert "50 % 0.920 3 1.000 0.700 to 1.000 0" in text, "the operating table"
    assert "1 slice falls short" in text
    assert text.count("cluster L2_10, group 1 12 0.250 0.090 to 0.530 0.750 −0.500") == 2
    assert "Of 40 images that a model judged without having been trained on them, 1 more probably" in text
    assert "L2_10/0010.jpg L2_10 L2_12 0.020 0.950 validation" in text
    assert "Limits Weaker where it is dark.Tested on few images." in text
    assert "model_card.md" in text
    assert "3 are right with the candidate alone and 2 with the champion alone" in text
    assert "max_class_drop 0.05 No class may lose more F1 than this" in text
    assert "All 49 6 3 3 3" in text, "the ledger's totals: kept, photo, duplicate, conflict, quarantined"
    assert text.count("artifacts/scan/") == 2, "found through validate's inputs"


def test_every_picture_is_embedded_whole_and_described(report: Report) -> None:
    pictures = report().all("img")
    assert len(pictures) > 20
    for picture in pictures:
        kind, _, data = (picture["src"] or "").partition(";base64,")
        content = base64.b64decode(data, validate=True)
        if kind == "data:image/svg+xml":
            assert ET.fromstring(content).tag.endswith("svg")
        else:
            assert content.startswith(b"\xff\xd8")
        assert picture["alt"]
        assert int(picture["width"] or 0) > 0


def test_names_of_any_kind_stay_text(report: Report) -> None:
    page = report(classes=HOSTILE)
    assert_harmless(page)
    assert '"><img src=x onerror=alert(1)>' in page.text
    assert "cost $x_2$ and $y {{ 7 * 7 }}" in page.text
    assert "한국어 😀" in page.text
    assert "n" * 39 + "…" in page.text
    titles = {each.get("title") for each in page.all("bdi")}
    assert "n" * 200 in titles
    assert "</style></title><script>alert(1)</script>" in titles
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", page.html)
    figures = [base64.b64decode((each["src"] or "").partition(",")[2]) for each in page.all("img")]
    drawn = [ET.fromstring(figure) for figure in figures if figure.startswith(b"<?xml")]
    texts = {text.text for figure in drawn for text in figure.iter("{http://www.w3.org/2000/svg}text")}
    assert any((text or "").startswith("cost $x_2$ and $y") for text in texts)


def test_nothing_optional_leaves_a_hole(report: Report) -> None:
    page = report(champion=False, photos=False, verdict="PROMOTE")
    assert_harmless(page)
    text = page.text
    assert "PROMOTEThe new model is the champion now." in text
    assert "Nothing to compare: there is no other champion that can be opened." in text
    assert "Champion, macro F1" not in text
    assert "Leaderboard" not in text
    assert "None was found." in text
    assert "Files of L2_10: kept, but most like photographs: a line for each row of pictures" in text
    assert "Nothing to compare with. There is no champion yet." in text
    assert "nan" not in text.lower()
    assert "None" not in text.replace("None was found.", "")


def test_several_models_are_ranked(report: Report) -> None:
    text = report(architectures=("residual", "vgg", "baseline")).text
    ranked = text[text.index("Leaderboard") :]
    assert ranked.index("residual (chosen) 0.800") < ranked.index("vgg 0.700") < ranked.index("baseline 0.600")
    assert text.count("Learning curves") == 3


def test_a_cross_validation_tells_mean_spread_and_interval(report: Report) -> None:
    text = report().text
    assert "baseline 5 0.771 0.020 0.730 to 0.812" in text
    assert "baseline 5 0.790 0.800 9" in text  # the last fold


def test_what_a_training_cost_is_told_as_far_as_it_is_known(report: Report) -> None:
    text = report({"hour_price": 3.6}, architectures=("residual", "vgg", "baseline")).text
    assert (
        "It took 3 min 20 s, 2 min 30 s of them until the best epoch; 400 GPU-seconds; at 3.60 an hour, 0.20." in text
    )
    assert "The GPU held up to 3.0 GiB and was busy 87 % of the time." in text
    assert "3 trainings took 10 min 0 s in all; 1,200 GPU-seconds; at 3.60 an hour, 0.60." in text
    noted = {"training_seconds": 1800.0, "seconds_to_best": 900.0, "gpus": 0}
    assert cost(noted, 3.0) == {"seconds": 1800.0, "seconds_to_best": 900.0, "gpu_seconds": None, "price": 1.5}
    assert set(cost({}, 3.0).values()) == {None}


def test_a_dry_run_tells_what_training_would_cost(store: LocalStore, tmp_path: Path, run_step: RunStep) -> None:
    run = a_run(store, tmp_path, HOSTILE)
    scans = run.pop("scan")
    run["eda"] = run_step("eda", {"validate": run["validate"], "scan": scans})
    for absent in JUDGING:
        del run[absent]
    asked = {"architectures": ["baseline", "vgg"], "image_size": 64, "epochs": 5, "folds": 2, "hour_price": 3600.0}
    made = run_step("report", run, **asked)
    page = Page(made.path("report.html").read_text())
    assert_harmless(page)
    drawn = 6 * 40
    seconds = drawn * 5 * 3 / 900  # the speed of the training in the store
    assert f"baseline 3 {drawn * 15:,} {duration(seconds)} {seconds:.2f}" in page.text
    assert f"vgg 3 {drawn * 15:,} not known –" in page.text
    assert [each["id"] for each in page.all("section")] == ["data", "drift", "photographs", "balance", "ledger", "run"]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"separate": False}, "the separation is switched off"),
        ({"separate": True, "contaminated": ["c"]}, "no class is one of those listed as contaminated (c)"),
        ({"separate": True, "contaminated": ["a", "c"]}, ""),
        ({"separate": True, "contaminated": []}, ""),
    ],
)
def test_why_no_photographs_were_looked_for(params: dict[str, Any], said: str) -> None:
    assert _not_looked_for(SimpleNamespace(params=params), {"a", "b"}).startswith(said)  # type: ignore[arg-type]
    assert bool(said) == bool(_not_looked_for(SimpleNamespace(params=params), {"a", "b"}))  # type: ignore[arg-type]


def test_a_dry_run_tells_what_a_search_would_cost(store: LocalStore, tmp_path: Path, run_step: RunStep) -> None:
    run = {name: made for name, made in a_run(store, tmp_path, HOSTILE).items() if name not in JUDGING}
    scans = run.pop("scan")
    run["eda"] = run_step("eda", {"validate": run["validate"], "scan": scans})
    search = {"search": {"epochs": [5, 9], "momentum": [0, 0.9]}, "trials": 4}
    made = run_step("report", run, architectures=["baseline"], image_size=64, epochs=5, **search)
    assert f"baseline 4 {6 * 40 * 9 * 4:,} " in Page(made.path("report.html").read_text()).text


def test_the_epochs_at_most_are_those_of_a_search_s_first_trial_too(store: LocalStore, tmp_path: Path) -> None:
    resample = with_counts(store, tmp_path, pd.DataFrame({"train": [5], "train_drawn": [40], "validation": [2]}))
    asked = ReportParams.of({"epochs": 60, "search": {"epochs": [5, 9]}, "trials": 3})
    assert plan(resample, asked, {})["plan"][0]["images"] == 40 * 60 * 3


def with_counts(store: LocalStore, folder: Path, counts: pd.DataFrame) -> Artifact:
    out = output(folder, store, "resample")
    out.table("counts.parquet", counts)
    out.metrics = {"train_drawn": int(counts["train_drawn"].sum())}
    return committed(out, "resample")


def test_folds_are_planned_with_all_that_they_draw(store: LocalStore, tmp_path: Path) -> None:
    # Three classes: undersampled, with nothing undersampled but much to validate, oversampled.
    counts = pd.DataFrame({"train": [300, 80, 7], "train_drawn": [100, 80, 40], "validation": [62, 10, 3]})
    resample = with_counts(store, tmp_path, counts)
    rows = [
        {"label": label, "part": part, "copies": copies}
        for label, row in enumerate(counts.itertuples())
        for part, number in (("train", min(row.train, row.train_drawn)), ("validation", row.validation))
        for copies in np.diff(np.linspace(0, row.train_drawn if part == "train" else number, number + 1).astype(int))
    ]
    used = pd.DataFrame(rows).rename_axis("row").reset_index()
    used["duplicate_group"] = used["row"]
    folds = [parts(used, TrainParams.of({"fold": fold, "of_folds": 10}))[0] for fold in range(1, 11)]
    drawn = counts["train_drawn"].sum() + sum(fold["copies"].sum() for fold in folds)
    planned = plan(resample, ReportParams.of({"epochs": 1, "folds": 10}), {})["plan"][0]["images"]
    assert drawn <= planned < drawn + 10 * len(counts), "more by an image a class and fold at most"


def test_a_network_is_reckoned_at_the_speed_of_its_own_bottleneck(store: LocalStore, tmp_path: Path) -> None:
    def speeds(**asked: Any) -> dict[str, float]:
        return past_speeds(store, ReportParams.of({"architectures": ["residual", "vgg"], **asked}))

    def trained(architecture: str, bottleneck: str, speed: float) -> None:
        out = output(tmp_path, store, "train")
        out.metrics = {"images_per_second": speed}
        committed(out, "train", architecture=architecture, bottleneck=bottleneck, image_size=224)

    both = {"bottleneck": ["output", "inner"]}
    trained("residual", "output", 400.0)
    trained("vgg", "output", 90.0)
    assert speeds() == {"residual": 400.0, "vgg": 90.0}
    assert speeds(bottleneck="inner") == {"vgg": 90.0}, "no other network has a bottleneck"
    assert speeds(search=both) == {"vgg": 90.0}
    trained("residual", "inner", 100.0)
    assert speeds()["residual"] == 400.0
    assert speeds(bottleneck="inner")["residual"] == speeds(search=both)["residual"] == 100.0
    assert speeds(bottleneck="inner", search={"bottleneck": ["output"]})["residual"] == 100.0, "the first is its own"


def test_inputs_that_do_not_go_together_are_named(store: LocalStore, tmp_path: Path, run_step: RunStep) -> None:
    made = a_run(store, tmp_path, architectures=("residual", "vgg"))
    made["eda"] = run_step("eda", {"validate": made["validate"], "scan": made.pop("scan")})
    for absent, said in (
        (
            ("evaluate", "train"),
            "some of train, evaluate, promote, but without train and evaluate. Give all",
        ),
        (("promote",), "but without promote"),
    ):
        with pytest.raises(ParamsError, match=said):
            run_step("report", {name: each for name, each in made.items() if name not in absent})
    first, second = made["train"]
    with pytest.raises(ParamsError, match=f"not among the `train` artifacts given: {second.key}"):
        run_step("report", made | {"train": [first]})


def test_pictures_over_the_limit_are_named(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.report.PICTURE_BYTES", 30_000)
    page = report()
    assert_harmless(page)
    assert 0 < len(page.all("img")) < 10
    assert "Left out here to keep this file small; it is" in page.text
    assert len(page.html) < 150_000


def test_the_same_artifacts_give_the_same_bytes(store: LocalStore, tmp_path: Path, run_step: RunStep) -> None:
    made = a_run(store, tmp_path)
    made["eda"] = run_step("eda", {"validate": made["validate"], "scan": made.pop("scan")})
    first = run_step("report", made)
    html = first.path("report.html").read_bytes()
    store.delete(f"{first.folder}/artifact.json")
    again = run_step("report", made)
    assert again.path("report.html").read_bytes() == html
    cost = {"training_runs": 1, "training_seconds": 200.0, "training_gpu_seconds": 400.0, "training_price": None}
    assert again.metrics == {"verdict": "HOLD", "images": 64, "macro_f1": 0.789, "bytes": len(html), **cost}


def need(f1: list[float], train: list[int], photo_share: list[float], test: int = 50) -> list[dict[str, Any]]:
    names = [f"class {number}" for number in range(len(f1))]
    counts = pd.DataFrame({"class": names, "train": train, "train_drawn": np.maximum(train, 100), "test": test})
    classwise, photos = (
        pd.DataFrame({"class": names, "f1": f1}),
        pd.DataFrame({"class": names, "photo_share": photo_share}),
    )
    pairs = pd.DataFrame({"class": names[0], "predicted": [names[1], names[2]], "images": [3, 8], "share": [0.1, 0.3]})
    return in_need(classwise, counts, photos, pairs, min_per_class=100, train_share=0.8)


@pytest.mark.parametrize(
    ("facts", "advice"),
    [
        pytest.param(
            {"train": [40, 200, 200]}, ["Collect about 75 more images. Until then each is shown 2.5 times"], id="few"
        ),
        pytest.param({"f1": [0.6, 0.9, 0.9]}, ["F1 is 0.20 below the average: .*“class 2” \\(8 of them\\)"], id="weak"),
        pytest.param({"photo_share": [0.35, 0, 0]}, ["35 % photographs"], id="photographs"),
        pytest.param({"f1": [np.nan, 0.9, 0.9]}, [], id="not tested"),
        pytest.param({}, [], id="none"),
    ],
)
def test_who_needs_data_and_why(facts: dict[str, Any], advice: list[str]) -> None:
    found = need(**{"f1": [0.9, 0.9, 0.9], "train": [200, 200, 200], "photo_share": [0, 0, 0]} | facts)
    assert [row["class"] for row in found] == ["class 0"] * bool(advice)
    said = [sentence for row in found for sentence in row["advice"]]
    assert len(said) == len(advice)
    assert all(re.match(pattern, sentence) for pattern, sentence in zip(advice, said, strict=True))


def test_the_neediest_class_comes_first() -> None:
    found = need([0.9, 0.5, 0.4], [200, 50, 200], [0, 0, 0])
    assert [row["class"] for row in found] == ["class 1", "class 2"], "two reasons before one"
    assert need([0.9, 0.8, 0.9], [200, 200, 200], [0, 0, 0], test=3)[0]["class"] == "class 1"


def test_changes_put_the_largest_loss_first_and_the_unknown_last() -> None:
    rows = [{"class": name, "delta": delta} for name, delta in (("a", 0.1), ("b", None), ("c", -0.2), ("d", 0.0))]
    shown = changes({"comparison": {"per_class": rows}})
    assert [(row["class"], row["size"]) for row in shown] == [("c", 1), ("d", 0), ("a", 0.5), ("b", 0)]
    assert changes({"comparison": None}) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_as_a_person_says_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
