import shutil
from types import SimpleNamespace

import boto3
import pandas as pd
import pytest

from tasks import evaluate, predict
from tasks.core.errors import DataError, NotFound, ParamsError
from tasks.predict import main
from tests.tasks.judging import World
from tests.tasks.test_promote import crown


@pytest.fixture
def world(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("draw_confusion", "draw_reliability", "draw_f1"):  # the export has no need of them
        monkeypatch.setattr(evaluate, name, lambda *_: None)
    return World(store, tmp_path, test=4)


@pytest.fixture
def evaluated(world, run_step):
    """The `evaluate` artifact of a model."""
    return lambda channel: run_step("evaluate", world.judged(world.model(channel)))


@pytest.fixture
def champion(world, evaluated):
    model = world.model("blue")
    crown(world, model, evaluation=evaluated("blue").uri)
    return model


def table() -> pd.DataFrame:
    return pd.read_csv("predictions.csv", encoding="utf-8-sig", keep_default_na=False)


def test_the_champion_names_each_image(world, champion, capsys):
    assert main(["--model", "champion", "pictures/b/000.png", "pictures/L2_3/001.png"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("pictures/b/000.png: b 0.")
    assert second.startswith("pictures/L2_3/001.png: L2_3 0.")
    assert table().columns.tolist() == ["image", "class", "probability", "error"]
    assert table()["class"].tolist() == ["b", "L2_3"]


def test_a_folder_with_a_broken_file(world, champion, capsys):
    broken = world.dataset / "b/broken.png"
    broken.write_bytes((world.dataset / "b/000.png").read_bytes()[:60])
    (world.dataset / "b/.hidden").write_bytes(b"not read")
    assert main(["pictures", "nowhere.jpg"]) == 0
    rows = table()
    assert len(rows) == len(world.images) + 2
    read = rows[rows["error"] == ""]
    assert (read["image"].str.split("/").str[1] == read["class"]).all()
    errors = rows[rows["error"] != ""].set_index("image")["error"]
    assert "truncated PNG" in errors["pictures/b/broken.png"]
    assert "no such file" in errors["nowhere.jpg"]
    out, err = capsys.readouterr()
    assert "pictures/b/broken.png: not read: truncated PNG" in out
    assert f"{len(rows)} images, 2 of them could not be read" in err


def test_where_no_image_can_be_read_the_exit_status_says_so(champion, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    assert main(["text.jpg", "nowhere.jpg"]) == 1
    assert (table()["error"] != "").all()


def test_an_image_out_of_reach_behind_its_link_is_named(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "1.png").symlink_to(tmp_path / "away.png")
    (picture,) = predict.find_pictures(str(tmp_path / "scans"))
    assert picture.name == f"{tmp_path}/scans/1.png"
    with pytest.raises(NotFound, match=r"Reading 1\.png .*no such file"):
        picture.read()


def test_more_than_one_class_an_image_as_parquet(champion):
    assert main(["pictures/b/000.png", "nowhere.jpg", "--top", "9", "--output", "out.parquet"]) == 0
    rows = pd.read_parquet("out.parquet")
    assert [name for name in rows.columns if name.startswith("class")] == ["class", "class_2", "class_3", "class_4"]
    probabilities = rows.filter(like="probability").iloc[0]
    assert probabilities.is_monotonic_decreasing
    assert probabilities.sum() == pytest.approx(1)


def test_a_name_can_not_act_on_the_terminal_or_the_spreadsheet(world, champion, tmp_path, capsys):
    names = ["=1+1.png", "꽃 \x1b[31m.png", b"\xff.png"]
    for name in names:
        path = tmp_path / (name if isinstance(name, str) else name.decode(errors="surrogateescape"))
        shutil.copy(world.dataset / "b/000.png", path)
    assert main(["=1+1.png", "꽃 \x1b[31m.png", "\udcff.png"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in out] == ["=1+1.png", "꽃 \\x1b[31m.png", "\\xff.png"]
    assert table()["image"].tolist() == ["'=1+1.png", "꽃 \x1b[31m.png", "\\xff.png"]


def test_a_model_by_the_uri_of_its_evaluation(evaluated):
    assert main(["pictures/class/000.png", "--model", evaluated("red").uri]) == 0
    assert table()["class"].tolist() == ["꽃 $x$"]  # red is wrong about it


def test_more_images_than_a_batch_keep_their_order(champion, monkeypatch):
    monkeypatch.setattr("tasks.predict.BATCH", 3)
    assert main(["pictures"]) == 0
    rows = table()
    assert rows["image"].tolist() == sorted(rows["image"])
    assert (rows["image"].str.split("/").str[1] == rows["class"]).all()


def test_images_in_a_bucket(champion, world, s3):
    bucket, _, prefix = s3.removeprefix("s3://").partition("/")
    for name in ("b/000.png", "L2_3/001.png"):
        boto3.client("s3").upload_file(str(world.dataset / name), bucket, f"{prefix}/{name}")
    assert main([f"s3://{bucket}", f"{s3}/b/000.png", f"{s3}/nothing"]) == 0
    rows = table()
    assert rows["image"].tolist() == [f"{s3}/L2_3/001.png", f"{s3}/b/000.png", f"{s3}/b/000.png", f"{s3}/nothing"]
    assert rows["class"].tolist() == ["L2_3", "b", "b", ""]
    assert "no such object" in rows["error"][3]


def test_no_champion_yet(world):
    with pytest.raises(DataError, match="no run has promoted a model"):
        main(["pictures"])


def test_probabilities_are_calibrated(world, evaluated):
    evaluation = evaluated("red")
    main(["pictures/b", "--model", evaluation.uri, "--output", "out.parquet"])
    given = pd.read_parquet("out.parquet").set_index("image")["probability"].rename(lambda name: name[9:])
    wanted = evaluation.table("predictions.parquet").set_index("key")["confidence"]
    both = wanted.index[wanted.index.str.startswith("b/")]
    assert len(both) == 4
    assert given[both].to_numpy() == pytest.approx(wanted[both].to_numpy(), abs=0.02)  # two pixels of a file differ


def test_a_champion_without_an_export(world):
    crown(world, world.model("blue"))
    with pytest.raises(DataError, match=r"has no export\. Run the workflow again"):
        main(["pictures"])


def test_champions_of_several_data_sets(world, champion, evaluated, store):
    others = SimpleNamespace(store=store, dataset="/data/others")
    crown(others, world.model("red"), evaluation=evaluated("red").uri)
    with pytest.raises(DataError, match=r"choose by --dataset, one of others-[0-9a-f]{8}, pictures-[0-9a-f]{8}\."):
        main(["pictures/class/000.png"])
    answers = []
    (name,) = [found.key[10:-5] for found in store.list("champions/") if "others" in found.key]
    for dataset in ("pictures/", "/data/others", name):
        assert main(["pictures/class/000.png", "--dataset", dataset]) == 0
        answers.append(table()["class"][0])
    assert answers == ["class", "꽃 $x$", "꽃 $x$"]
    with pytest.raises(DataError, match="no champion of elsewhere"):
        main(["pictures", "--dataset", "elsewhere"])


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["x", "--output", "out.xlsx"], ParamsError, "ends in .csv or .parquet"),
        (["x", "--output", "no/folder/out.csv"], ParamsError, "there is no folder"),
        (["x", "--top", "0"], ParamsError, "expected 1 or more"),
        (["x", "--model", "resnet"], ParamsError, "is not an artifact's URI"),
        (["x", "--model", "/store/artifacts/evaluate/0"], NotFound, "There is no artifact"),
        (["empty"], DataError, "There are no images in empty"),
    ],
    ids=["format", "folder", "top", "no URI", "no artifact", "empty folder"],
)
def test_what_can_not_be_used_is_said(champion, tmp_path, words, error, says):
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=says):
        main(words)


def test_an_artifact_that_is_no_model_is_refused(world):
    with pytest.raises(ParamsError, match="made by 'resample'; expected the URI of an `evaluate` artifact"):
        main(["pictures", "--model", world.resample.uri])


def test_how_large_an_image_may_be_can_be_said(champion):
    assert main(["pictures/b/000.png", "--max-megapixels", "0.0001"]) == 1
    assert table()["error"].tolist() == ["0.0004 megapixels, more than the allowed 0.0001"]
    with pytest.raises(ParamsError, match="max_megapixels = nan"):
        main(["pictures/b/000.png", "--max-megapixels", "nan"])
