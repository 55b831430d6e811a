"""Train one network on the pack, and keep the weights of the epoch with the lowest validation loss.

Reads the pack; each epoch draws a training image as often as its `copies` say, augmented anew each
time. By default SGD; the learning rate is halved, and the training ended, after some epochs without a lower validation
loss.

With `fold` k of `of_folds` it is one training of a cross-validation: the training and validation parts together are
divided into folds, and the k-th validates (Stone, Cross-validatory choice and assessment of statistical predictions,
1974). The test part is in none of them.

Writes
  model.keras         the network: takes pixels of 0..255, gives class probabilities
  labels.json         the class of each output, in order
  model.json          architecture, image size, parameters, classes, preprocessing, best epoch, and how it was executed
  history.csv         epoch, loss, accuracy, val_loss, val_accuracy, val_macro_f1, learning_rate
  curves.svg          the history, drawn
  train_batch.jpg     64 training images as the network sees them
  validation.parquet  row, key, class, predicted and the probabilities p_0, p_1, … of the validation images

Its metrics tell what it took: images a second, floating-point operations an image, the seconds of the training and of
its part until the best epoch, on a GPU the peak of its memory and the share of time in which it was busy.
"""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core import figures, params
from tasks.core.artifacts import Inputs, Output
from tasks.core.errors import DataError, NotFound, ParamsError
from tasks.core.memory import keep_freed
from tasks.core.store import open_store
from tasks.vision import folds
from tasks.vision.pack import open_pack

if TYPE_CHECKING:
    from tasks.vision.feed import Batches

INPUTS = ("resample", "pack*")
Params = params.TrainParams

SHEET = 64
"""How many images the sheet of training images shows."""


def run(inputs: Inputs, params: params.TrainParams, out: Output) -> None:
    """Train one network, from the last epoch that was kept, and write it with its curves and its validation scores.

    Raises:
        DataError: there is too little to train on.
        ParamsError: params that don't fit the pack, the memory or the weights that they name, or under which the loss
            is no longer a number.
    """
    resample = inputs.one("resample")
    classes: list[str] = resample.json("classes.json")
    table = resample.table("used.parquet")
    train, validation = parts(table, params)
    check_parts(train, validation, classes)
    pack = open_pack(resample, inputs.many("pack"))
    if pack.size != params.image_size:
        raise ParamsError(
            f"image_size is {params.image_size}, but the pack holds images of {pack.size} px. "
            f"Give both steps the same image_size."
        )

    keep_freed()
    from tasks.vision import devices, feed, models, training  # they import TensorFlow, which takes seconds

    drawn = train.loc[train.index.repeat(train["copies"])]
    execution = devices.choose(params, len(train) * pack.size**2 * 3)
    devices.make_deterministic(execution.xla)
    with devices.shared():
        model = models.build(
            params.architecture,
            pack.size,
            len(classes),
            params.seed,
            bottleneck=params.bottleneck,
            precision=execution.precision,
            synchronised=execution.devices > 1,
        )
        started_from = start_weights(model, params, out)
        labels = drawn["label"].to_numpy()
        balanced = feed.class_weights(labels, len(classes))
        batches = feed.Batches(
            pack,
            drawn["row"].to_numpy(),
            labels,
            balanced if params.class_weights else np.ones_like(balanced),
            batch_size=params.batch_size,
            augmented=params.augment,
            seed=params.seed,
            smoothing=params.label_smoothing,
            mixup=params.mixup,
            feed=execution.feed,
            steps_per_execution=execution.steps_per_execution,
            devices=execution.devices,
        )
        held_out = validation["row"].to_numpy()
        flops = models.flops(model)
        out.log(
            f"{params.architecture}: {model.count_params():,} parameters, {flops / 1e9:.3g} GFLOP an image, "
            f"{pack.size} px, {len(classes)} classes, {len(drawn)} images an epoch, {len(held_out)} for validation"
        )
        judged = training.Validation(model, pack, held_out, validation["label"].to_numpy(), params.batch_size)
        facts = {"architecture": params.architecture, "parameters": model.count_params()}

        try:
            with devices.watched() as use:
                fitted = training.fit(
                    model,
                    batches,
                    judged,
                    params,
                    execution,
                    identity=facts | {"image_size": pack.size, "classes": classes},
                    checkpoint=out.checkpoint,
                    file=out.folder / ".state.npz",
                    log=out.log,
                )
        except training.Diverged as error:
            if error.best_epoch:
                save(model, params, pack.size, classes, out)
            raise
        save(model, params, pack.size, classes, out)
        # What is scored, and calibrated, is what is used later: in another precision probabilities differ by a percent.
        scored = model if execution.precision == "float32" else models.load(out.path("model.keras"))
        probabilities = training.predict(scored, pack, held_out, params.batch_size)

    history, best_epoch = fitted.history, fitted.best_epoch
    out.table("validation.parquet", predictions(validation, probabilities, classes))
    history.to_csv(out.path("history.csv"), index=False)
    draw_curves(history, best_epoch, out)
    draw_batch(batches, out)

    facts |= {"epochs": len(history), "best_epoch": best_epoch} | ({"fold": params.fold} if params.fold else {})
    preprocessing = "RGB pixels of 0..255, the whole image resized to a square; the network scales them itself"
    out.json(
        "model.json",
        facts
        | {"image_size": pack.size, "classes": len(classes), "preprocessing": preprocessing}
        | ({"bottleneck": params.bottleneck} if params.architecture == "residual" else {})
        | started_from
        | {"execution": {"backend": devices.backend(), "device": devices.name(), **execution._asdict()}},
    )
    out.metrics |= facts | {"images": len(drawn)} | training.scores(probabilities, validation["label"].to_numpy())
    out.metrics |= {
        "images_per_second": round(len(drawn) * len(history) / fitted.seconds, 1),
        "flops_per_image": flops,
        "seconds_to_best": round(fitted.seconds_to_best, 1),
        "training_seconds": round(fitted.seconds, 1),
        "gpus": execution.devices if devices.has_gpu() else 0,
        "gpu_memory_bytes": devices.peak_memory(),
        "gpu_use": float(np.mean(use)) if use else None,
    }


def start_weights(model: Any, params: params.TrainParams, out: Output) -> dict[str, str]:
    """Give a `keras:<Name>` network the weights that the params name; says which they were. Others have none to take.

    Raises:
        ParamsError: nothing is at the URI.
        DataError: the file there doesn't fit.
    """
    from tasks.vision import models

    if not params.weights or not params.architecture.startswith("keras:"):
        return {}
    uri = params.weights.replace("{name}", model.name)
    folder, _, name = uri.rpartition("/")
    path = out.folder / f".start.{'weights.h5' if name.endswith('.weights.h5') else 'h5'}"
    try:
        open_store(folder).download(name, path)
        models.load_weights(model, path, uri)
        return {"weights": uri, "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except NotFound:
        raise ParamsError(f"weights = {params.weights!r}: there is nothing at {uri}.") from None
    finally:
        path.unlink(missing_ok=True)


def save(model: Any, params: params.TrainParams, size: int, classes: list[str], out: Output) -> None:
    """Write the network, in float32 and without what only its training needs."""
    from tasks.vision import models

    bare = models.build(params.architecture, size, len(classes), params.seed, bottleneck=params.bottleneck)
    bare.set_weights(model.get_weights())
    models.save(bare, out.path("model.keras"))
    out.json("labels.json", classes)


def parts(table: pd.DataFrame, params: params.TrainParams) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images to train on, with `copies`, and those that validate.

    In a fold each class is drawn as often in an epoch as in the training itself, but each of its images at least once.

    Raises:
        ParamsError: there is no such fold.
        DataError: there are fewer duplicate groups than folds, or no class has as many images.
    """
    train, validation = table[table["part"] == "train"], table[table["part"] == "validation"]
    if not params.of_folds:
        return train, validation
    if not 1 <= params.fold <= params.of_folds:
        raise ParamsError(f"fold = {params.fold}: there are the folds 1 to {params.of_folds}.")
    images = pd.concat([train, validation]).sort_values("row")
    groups = images["duplicate_group"].to_numpy()
    if len(np.unique(groups)) < params.of_folds:
        raise DataError(f"There are too few different images for folds = {params.of_folds}. Set fewer, or add images.")
    if (largest := int(images["label"].value_counts().max())) < params.of_folds:
        raise DataError(
            f"There are too few images for folds = {params.of_folds}: the largest class has {largest} to train and "
            f"validate on. Set fewer, or add images."
        )
    fold = folds.assign_folds(images["label"].to_numpy(), groups, params.of_folds, params.seed)
    rest = images[fold != params.fold].copy()
    for label, group in rest.groupby("label"):
        drawn = max(len(group), int(train.loc[train["label"] == label, "copies"].sum()))
        every, extra = divmod(drawn, len(group))
        rest.loc[group.index, "copies"] = (every + (np.arange(len(group)) < extra)).astype(np.int32)
    return rest, images[fold == params.fold]


def check_parts(train: pd.DataFrame, validation: pd.DataFrame, classes: list[str]) -> None:
    """Check that there is something to learn, for each class, and something to judge it by.

    Raises:
        DataError: fewer than two classes, a class without a training image, no validation image.
    """
    if len(classes) < 2:
        raise DataError(
            f"There is nothing to tell apart: the pack holds {len(classes)} class ({', '.join(classes)}). "
            f"Add images of a second class, or see in the ledger of `resample` where they went."
        )
    counts = train.groupby("label")["copies"].sum()
    absent = [name for label, name in enumerate(classes) if counts.get(label, 0) == 0]
    if absent:
        raise DataError(
            f"No training image of {', '.join(absent)}. Add images, or see in the ledger of `resample` why "
            f"theirs were left out."
        )
    if validation.empty:
        raise DataError("The validation part is empty. Add images, or raise validation_share.")


def predictions(images: pd.DataFrame, probabilities: npt.NDArray[np.float32], classes: list[str]) -> pd.DataFrame:
    """One row an image: row, key, class, predicted, p_0, p_1, …"""
    frame = images[["row", "key", "class"]].reset_index(drop=True)
    frame["predicted"] = [classes[label] for label in probabilities.argmax(axis=1)]
    columns = [f"p_{label}" for label in range(len(classes))]
    return pd.concat([frame, pd.DataFrame(probabilities, columns=columns)], axis=1).sort_values(
        "key", ignore_index=True
    )


def draw_curves(history: pd.DataFrame, best_epoch: int, out: Output) -> None:
    """Loss on the left, accuracy and macro F1 on the right, the best epoch marked."""
    names = {
        "loss": "training",
        "accuracy": "training accuracy",
        "val_loss": "validation",
        "val_accuracy": "validation accuracy",
        "val_macro_f1": "validation macro F1",
    }
    panels = {"loss": ("loss", "val_loss"), "score": ("accuracy", "val_accuracy", "val_macro_f1")}
    marker = "o" if len(history) == 1 else None
    with figures.figure(out.path("curves.svg"), 9, 3.2, ncols=2) as drawn:
        axes: Any = drawn
        for panel, (label, columns) in zip(axes, panels.items(), strict=True):
            for column in columns:
                panel.plot(history["epoch"], history[column], label=names[column], marker=marker)
            panel.axvline(best_epoch, color=figures.MUTED, linestyle=":", label="best epoch")
            panel.set(xlabel="epoch", ylabel=label)
            panel.xaxis.get_major_locator().set_params(integer=True)
            panel.legend()
        axes[1].set_ylim(0, 1)


def draw_batch(batches: "Batches", out: Output) -> None:
    """A sheet of the first training images, as the network sees them."""
    figures.contact_sheet(batches.pictures(SHEET), out.path("train_batch.jpg"), columns=8)
