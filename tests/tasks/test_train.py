import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from tasks.core.artifacts import Artifact
from tasks.core.errors import TRY_AGAIN, DataError, ParamsError, Terminated
from tasks.core.params import TrainParams
from tasks.core.settings import settings
from tasks.core.step import Checkpoint, execute, expected_key
from tasks.core.store import LocalStore
from tests.tasks.artifacts_by_hand import committed, output

CLASSES = ["L2_3", "빨강", "<b>"]
SIZE = 32

Given = dict[str, Artifact]
Resampled = Callable[..., Given]


def stripes(label: int, rng: np.random.Generator) -> np.ndarray:
    """Noise over stripes: upright in class 0, level in class 1, none in class 2."""
    wave = 90 * np.sin(np.arange(SIZE) * 0.8 + rng.uniform(0, 6))
    pattern = [np.tile(wave, (SIZE, 1)), np.tile(wave[:, None], (1, SIZE)), np.zeros((SIZE, SIZE))][label]
    return np.clip(128 + pattern[:, :, None] + rng.normal(0, 20, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


def noise(label: int, rng: np.random.Generator) -> np.ndarray:
    """Nothing to learn."""
    return rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def resampled(store: LocalStore, tmp_path: Path) -> Resampled:
    """Makes the inputs of `train`: per class, its training images (the first drawn twice) and 8 to validate."""

    def make(
        picture: Callable[[int, np.random.Generator], np.ndarray] = stripes,
        train: tuple[int, ...] = (30, 30, 30),
        validation: int = 8,
        classes: list[str] = CLASSES,
    ) -> Given:
        rng, rows, images = np.random.default_rng(0), [], []
        for label, count in enumerate(train):
            for number in range(count + validation):
                images.append(picture(label, rng))
                rows.append(
                    {
                        "key": f"{classes[label]}/{number:03}.png",
                        "class": classes[label],
                        "label": label,
                        "part": "train" if number < count else "validation",
                        "copies": 2 if number == 0 else 1,
                    }
                )
        table = pd.DataFrame(rows)
        table.insert(0, "row", np.arange(len(table)))
        table["duplicate_group"] = np.arange(len(table)) // 2
        folder = tmp_path / "by-hand"
        folder.mkdir(exist_ok=True)
        out = output(folder, store, "resample")
        out.table("used.parquet", table)
        out.json("classes.json", classes)
        resample = committed(out, "resample")
        out = output(folder, store, "pack")
        for file in (0, 1):
            np.save(out.path(f"{file:03}.npy"), np.stack(images[file::2]))
        out.table("rows.parquet", table[["row"]].assign(file=table["row"] % 2, offset=table["row"] // 2))
        return {"resample": resample, "pack": committed(out, "pack", {"resample": resample.key}, image_size=SIZE)}

    return make


def uris(given: Given) -> dict[str, str]:
    return {name: artifact.uri for name, artifact in given.items()}


def quick(**changed: object) -> dict[str, object]:
    """Params of a training of seconds."""
    params = {
        "architecture": "baseline",
        "image_size": SIZE,
        "epochs": 12,
        "batch_size": 16,
        "learning_rate": 0.02,
        "momentum": 0.9,
        "augment": False,
    }
    return params | changed


def test_learns_to_tell_stripes_apart(resampled: Resampled, run_step, capsys):
    trained = run_step("train", resampled(), **quick())
    assert trained.metrics["val_macro_f1"] > 0.9
    assert trained.metrics["architecture"] == "baseline"
    assert trained.json("labels.json") == CLASSES

    history = pd.read_csv(trained.path("history.csv"))
    assert list(history) == [
        "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1", "learning_rate",
    ]  # fmt: skip
    assert len(history) == trained.metrics["epochs"]
    lines = [line for line in capsys.readouterr().out.splitlines() if "epoch " in line]
    assert len(lines) == len(history)
    assert "at most 0.0 min left" in lines[-1]

    description = trained.json("model.json")
    assert (description["image_size"], description["classes"]) == (SIZE, 3)
    assert description["best_epoch"] == trained.metrics["best_epoch"]

    sheet = cv2.imread(str(trained.path("train_batch.jpg")))
    assert sheet.shape[0] == sheet.shape[1]  # 8 rows of 8
    assert "<svg" in trained.path("curves.svg").read_text()


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """Weights of an EfficientNet whose normalisation has values, as those of ImageNet have."""
    import keras

    body = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    (normalisation,) = (layer for layer in body.layers if isinstance(layer, keras.layers.Normalization))
    normalisation.adapt_mean.assign([0.485, 0.456, 0.406])
    normalisation.adapt_variance.assign([0.01, 0.02, 0.03])
    normalisation.finalize_state()
    path = tmp_path / "body.weights.h5"
    body.save_weights(path)
    return path


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "bfloat16, pretrained"])
def test_validation_table_is_of_the_saved_model(resampled: Resampled, run_step, precision, request):
    from tasks.vision import models

    given, params = resampled(train=(9, 5, 5)), quick(epochs=2, precision=precision.partition(",")[0])
    if "pretrained" in precision:
        weights = request.getfixturevalue("pretrained").as_uri()
        params |= {"architecture": "keras:EfficientNetB0", "weights": weights, "epochs": 1}
    trained = run_step("train", given, **params)
    table = trained.table("validation.parquet")
    assert list(table) == ["row", "key", "class", "predicted", "p_0", "p_1", "p_2"]
    assert table["key"].is_monotonic_increasing
    assert len(table) == 24

    model = models.load(trained.path("model.keras"))
    files = [np.load(given["pack"].path(f"{file:03}.npy")) for file in (0, 1)]
    images = np.stack([files[row % 2][row // 2] for row in table["row"]])
    probabilities = np.asarray(model(images))
    assert table[["p_0", "p_1", "p_2"]].to_numpy() == pytest.approx(probabilities, abs=1e-6)
    assert table["predicted"].tolist() == [CLASSES[label] for label in probabilities.argmax(axis=1)]
    assert (table["predicted"] == table["class"]).mean() == pytest.approx(trained.metrics["val_accuracy"])


def test_one_seed_in_same_bytes_out(resampled: Resampled, tmp_path: Path):
    given = resampled(train=(7, 5, 5), validation=3)
    params = TrainParams.of(quick(epochs=2, augment=True))
    first, second = (execute("train", uris(given), params, str(tmp_path / store)).artifact for store in "ab")
    for name in first.names():
        assert first.path(name).read_bytes() == second.path(name).read_bytes(), name


def test_other_seed_other_model(resampled: Resampled, run_step):
    given = resampled(train=(7, 5, 5), validation=3)
    first, second = (run_step("train", given, **quick(epochs=1, seed=seed)) for seed in (0, 1))
    assert first.path("model.keras").read_bytes() != second.path("model.keras").read_bytes()


def test_stops_early_and_restores_the_best_weights(resampled: Resampled, run_step):
    trained = run_step(
        "train",
        resampled(noise),
        **quick(epochs=60, learning_rate=0.05, plateau_patience=2, stop_patience=5),
    )
    history = pd.read_csv(trained.path("history.csv"))
    best = history.loc[history["val_loss"].idxmin()]
    assert best["epoch"] == trained.metrics["best_epoch"]
    assert len(history) == best["epoch"] + 5 < 60
    assert trained.metrics["val_loss"] == pytest.approx(best["val_loss"])
    # Two epochs without a lower loss, then half the rate.
    after = history.loc[history["epoch"] > best["epoch"], "learning_rate"].to_numpy()
    assert after / after[0] == pytest.approx([1, 1, 0.5, 0.5, 0.25])

    table = trained.table("validation.parquet")
    true = table[["p_0", "p_1", "p_2"]].to_numpy()[np.arange(len(table)), table["class"].map(CLASSES.index)]
    assert -np.log(true).mean() == pytest.approx(best["val_loss"], rel=1e-4)


def test_class_weights_help_the_small_class(resampled: Resampled, run_step):
    given = resampled(noise, train=(40, 4, 4))
    shares = []
    for weighted in (True, False):
        trained = run_step("train", given, **quick(epochs=3, class_weights=weighted))
        shares.append(trained.table("validation.parquet")["p_0"].mean())
    # With nothing to go by, the network answers with the classes' weights: a third each, or 40 to 8.
    assert shares[0] < 0.5 < shares[1]


def test_a_fold_validates_its_own_images_and_trains_on_the_rest(resampled: Resampled, run_step):
    given = resampled(train=(12, 6, 6), validation=6)
    used = given["resample"].table("used.parquet").set_index("key")
    seen: list[str] = []
    for fold in (1, 2, 3):
        trained = run_step("train", given, **quick(epochs=1, fold=fold, of_folds=3))
        assert trained.metrics["fold"] == fold
        # each class is drawn as often as in the training itself (its first image twice), or each image once
        held_out = trained.table("validation.parquet")
        rest = used.drop(held_out["key"])
        drawn = pd.concat([rest.groupby("class").size(), pd.Series({"L2_3": 13, CLASSES[1]: 7, CLASSES[2]: 7})], axis=1)
        assert trained.metrics["images"] == drawn.max(axis=1).sum()
        assert not set(used.loc[held_out["key"], "duplicate_group"]) & set(rest["duplicate_group"])
        assert set(held_out["class"]) == set(CLASSES)
        seen += held_out["key"].tolist()
    assert sorted(seen) == sorted(used.index)


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"fold": 4, "of_folds": 3}, ParamsError, "fold = 4: there are the folds 1 to 3"),
        ({"fold": 1, "of_folds": 20}, DataError, "too few different images for folds = 20"),
        ({"fold": 1, "of_folds": 8}, DataError, "too few images for folds = 8: the largest class has 6 to train"),
    ],
)
def test_a_fold_that_cannot_be(asked, error, said, resampled: Resampled, run_step):
    with pytest.raises(error, match=said):
        run_step("train", resampled(train=(4, 4, 4), validation=2), **quick(**asked))


def test_a_class_without_training_images(resampled: Resampled, run_step):
    with pytest.raises(DataError, match="No training image of 빨강"):
        run_step("train", resampled(train=(5, 0, 5)), **quick())


def test_one_class_only(resampled: Resampled, run_step):
    with pytest.raises(DataError, match=r"nothing to tell apart: the pack holds 1 class \(L2_3\)"):
        run_step("train", resampled(train=(5,), classes=["L2_3"]), **quick())


def test_no_validation_image(resampled: Resampled, run_step):
    with pytest.raises(DataError, match="validation part is empty"):
        run_step("train", resampled(train=(5, 5, 5), validation=0), **quick())


def test_a_pack_of_another_size(resampled: Resampled, run_step):
    with pytest.raises(ParamsError, match="image_size is 64, but the pack holds images of 32 px"):
        run_step("train", resampled(), **quick(image_size=64))


def test_a_missing_file_of_pixels(resampled: Resampled, run_step):
    given = resampled()
    given["pack"].path("001.npy").unlink()
    with pytest.raises(DataError, match=r"001\.npy .* is missing or was changed"):
        run_step("train", given, **quick())


@pytest.mark.parametrize(
    ("how", "status"),
    [
        pytest.param(signal.SIGTERM, TRY_AGAIN, id="SIGTERM"),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, id="SIGKILL"),
    ],
)
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    how, status, resampled: Resampled, tmp_path: Path, home
):
    given = resampled(train=(7, 5, 5), validation=3)
    # patience so short that the learning rate falls: its state must come back too
    params = TrainParams.of(quick(epochs=9, augment=True, batch_size=4, plateau_patience=1, stop_patience=4))
    command = [
        sys.executable,
        "-m",
        "tasks",
        "train",
        *(f"--input={name}={uri}" for name, uri in uris(given).items()),
        f"--store={tmp_path / 'a'}",
    ]
    process = subprocess.Popen(
        [*command, f"--params={params.model_dump_json()}"],
        env=os.environ
        | {"GESSO_HOME": str(home), "GESSO_CHECKPOINT_SECONDS": "0" if how == signal.SIGKILL else "3600"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "epoch 4/9" in line:
            process.send_signal(how)
            break
    lines += process.stderr
    assert process.wait() == status, "".join(lines)
    if how == signal.SIGTERM:
        assert lines[-1].startswith("gesso: It was told to stop (SIGTERM). Run again: ")

    (kept,) = LocalStore(tmp_path / "a").list("checkpoints/train/")
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        resumed = execute("train", uris(given), params, str(tmp_path / "a")).artifact
    assert kept.key == f"checkpoints/train/{resumed.key}"
    assert re.search(r"Going on after epoch [345], from .*/checkpoints/train/", told.getvalue())
    assert list(LocalStore(tmp_path / "a").list("checkpoints/")) == []

    whole = execute("train", uris(given), params, str(tmp_path / "b")).artifact
    for name in whole.names():
        assert resumed.path(name).read_bytes() == whole.path(name).read_bytes(), name


def test_a_training_that_had_stopped_early_is_not_trained_further(resampled: Resampled, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GESSO_CHECKPOINT_SECONDS", "0")
    settings.cache_clear()
    given = resampled(noise, train=(7, 5, 5), validation=3)
    params = TrainParams.of(quick(epochs=30, stop_patience=1))
    whole = execute("train", uris(given), params, str(tmp_path / "a")).artifact
    assert whole.metrics["epochs"] < 30

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tasks.core.step.commit", killed)  # after the training, before its artifact is there
        with pytest.raises(KeyboardInterrupt):
            execute("train", uris(given), params, str(tmp_path / "b"))
    again = execute("train", uris(given), params, str(tmp_path / "b")).artifact
    for name in whole.names():
        assert again.path(name).read_bytes() == whole.path(name).read_bytes(), name


def test_told_to_stop_while_it_keeps_its_state_a_training_keeps_it(resampled: Resampled, store, monkeypatch, capsys):
    monkeypatch.setenv("GESSO_CHECKPOINT_SECONDS", "0")
    settings.cache_clear()
    given, params, save, saves = resampled(), TrainParams.of(quick(epochs=9)), Checkpoint.save, []

    def told_to_stop(checkpoint: Checkpoint, file: Path) -> None:
        saves.append(file)
        if len(saves) == 4:
            raise Terminated
        save(checkpoint, file)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "save", told_to_stop)
        with pytest.raises(Terminated):
            execute("train", uris(given), params, store.uri)
    execute("train", uris(given), params, store.uri)
    assert "Going on after epoch 4, from " in capsys.readouterr().out


def test_a_damaged_checkpoint_counts_as_none(resampled: Resampled, store: LocalStore):
    given = resampled(train=(7, 5, 5), validation=3)
    params = TrainParams.of(quick(epochs=1))
    key = expected_key("train", uris(given), params)
    store.put(f"checkpoints/train/{key}", b"PK\x03\x04 half a file")
    assert execute("train", uris(given), params, store.uri).artifact.key == key


def test_a_training_that_diverges_keeps_the_best_weights_until_then(resampled: Resampled, store: LocalStore, tmp_path):
    from tasks.vision import models

    given = resampled(noise, train=(4, 4, 4), validation=2)  # two steps an epoch
    # Each step makes the weights nine times as large, until their products are too large for a float32.
    params = TrainParams.of(quick(epochs=60, batch_size=8, optimizer="adamw", learning_rate=10, weight_decay=1))
    with pytest.raises(ParamsError, match=r"no longer a number in epoch \d+, at the learning rate [\d.]+: ") as caught:
        execute("train", uris(given), params, store.uri)
    assert re.search(
        r"The weights of epoch \d+ are kept, the best until then\. What it found is kept in", str(caught.value)
    )
    (kept,) = [found.key for found in store.list("failed/train/") if found.key.endswith("/model.keras")]
    store.download(kept, tmp_path / "model.keras")
    weights = models.load(tmp_path / "model.keras").get_weights()
    assert all(np.isfinite(weight).all() for weight in weights)


def test_weights_from_a_uri(resampled: Resampled, run_step, tmp_path: Path):
    import keras

    source = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")
    source.save_weights(tmp_path / "VGG16.weights.h5")
    asked = quick(architecture="keras:VGG16", epochs=1, freeze_epochs=1)
    trained = run_step(
        "train",
        resampled(train=(4, 4, 4), validation=2),
        **asked,
        weights=f"file://{tmp_path}/{{name}}.weights.h5",
    )
    model = keras.saving.load_model(trained.path("model.keras"))
    for one, two in zip(model.get_layer("body").weights, source.weights, strict=True):
        assert np.array_equal(one, two)
    description = trained.json("model.json")
    assert description["weights"] == f"file://{tmp_path}/VGG16.weights.h5"
    assert len(description["weights_sha256"]) == 64


def test_weights_that_are_not_there(resampled: Resampled, run_step, tmp_path: Path):
    with pytest.raises(ParamsError, match=rf"there is nothing at file://{tmp_path}/MobileNetV2\.weights\.h5\."):
        run_step(
            "train",
            resampled(),
            **quick(architecture="keras:MobileNetV2", weights=f"file://{tmp_path}/{{name}}.weights.h5"),
        )


def test_what_a_training_took_is_recorded(resampled: Resampled, run_step):
    trained = run_step("train", resampled(), **quick(epochs=2, label_smoothing=0.1, mixup=0.2))
    took = trained.metrics
    assert took["images_per_second"] == pytest.approx(93 * 2 / took["training_seconds"], rel=0.2)
    assert 0 < took["seconds_to_best"] <= took["training_seconds"]
    assert took["flops_per_image"] == 2 * (27 * 32 * 121 + 9 * 32 * 64 * 4 + 9 * 64 * 64 * 4 + 64 * 512 + 512 * 3)
    execution = trained.json("model.json")["execution"]
    assert execution["precision"] == "float32"
    assert execution["feed"] == "warped"


def test_another_key_than_the_expected_one_is_refused(resampled: Resampled, store: LocalStore):
    with pytest.raises(ParamsError, match="another version of Gesso than the one that asked"):
        execute("train", uris(resampled()), TrainParams.of(quick()), store.uri, expect_key="0" * 32)
