"""The training loop: the stream of batches, the fit, the validation after each epoch."""

import json
import math
import time
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core.checkpoint import Checkpoint
from tasks.core.errors import Interrupted, ParamsError, StoreError
from tasks.core.settings import settings
from tasks.vision import augment, metrics
from tasks.vision.pack import Pack

Rows = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]
Probabilities = npt.NDArray[np.float32]

COLUMNS = ("loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1", "learning_rate")
"""The history's columns beside `epoch`."""


def make_deterministic() -> None:
    """Make the same training give the same weights, bit for bit, on the same machine."""
    if keras.backend.backend() == "tensorflow":
        # TensorFlow adds up gradients in the order in which its threads finish, unless told not to, and Keras has
        # no switch for it. The other backends need none on a CPU.
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """An endless stream of training batches: (images uint8, labels, weights).

    Batch number `step` is a function of the seed and `step` alone, whatever thread asks for it and when.
    """

    def __init__(
        self,
        pack: Pack,
        rows: Rows,
        labels: Labels,
        weights: npt.NDArray[np.float32],
        *,
        batch_size: int,
        augmented: bool,
        seed: int,
    ) -> None:
        """Prepare the stream.

        Args:
            pack: the images.
            rows: the row of each drawn image; a row may come more than once.
            labels: the label of each drawn image.
            weights: the weight of each label in the loss.
        """
        super().__init__()
        self._pack, self._rows, self._labels, self._weights = pack, rows, labels, weights
        self._augmented, self._seed = augmented, seed
        self.steps = math.ceil(len(rows) / batch_size)
        """Batches an epoch."""
        self.first_epoch = 0
        """The epoch that the stream begins with."""

    @property
    def num_batches(self) -> None:
        """None: endless."""
        return None

    def __getitem__(self, step: int) -> tuple[npt.NDArray[np.uint8], Labels, npt.NDArray[np.float32]]:
        epoch, index = divmod(step, self.steps)
        epoch += self.first_epoch
        # Of nearly equal size: batch norm has nothing to go by in a last batch of one image.
        drawn = np.array_split(_order(self._seed, epoch, len(self._rows)), self.steps)[index]
        images, labels = self._pack.gather(self._rows[drawn]), self._labels[drawn]
        if self._augmented:
            rng = np.random.default_rng([self._seed, epoch, index + 1])  # 0 draws the epoch's order
            matrices = augment.matrices(augment.draw(rng, len(images)), self._pack.size)
            images = augment.warp(images, matrices)
        return images, labels, self._weights[labels]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch, 0]).permutation(images)


def class_weights(labels: Labels, classes: int) -> npt.NDArray[np.float32]:
    """The weight of each class [classes] that makes all classes count the same: n / (classes * n_c)."""
    return (len(labels) / (classes * np.bincount(labels, minlength=classes))).astype(np.float32)


def predict(model: Any, pack: Pack, rows: Rows, batch_size: int) -> Probabilities:
    """Class probabilities [rows, classes] of images in a pack."""
    starts = range(0, len(rows), batch_size)
    return np.concatenate([model.predict_on_batch(pack.gather(rows[start : start + batch_size])) for start in starts])


def cross_entropy(probabilities: Probabilities, labels: Labels) -> float:
    """Mean negative log-likelihood in nats, each class as it occurs; probabilities below 1e-7 count as 1e-7."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, 1e-7)).mean())


class Validation(keras.callbacks.Callback):  # type: ignore[misc]
    """Adds val_loss, val_accuracy and val_macro_f1 to an epoch's logs, all from one pass over the images.

    Keras' own validation can't give a macro F1 without a second pass. Stands before the callbacks that read these.
    """

    def __init__(self, pack: Pack, rows: Rows, labels: Labels, batch_size: int) -> None:
        super().__init__()
        self._pack, self._rows, self._labels, self._batch_size = pack, rows, labels, batch_size

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        probabilities = predict(self.model, self._pack, self._rows, self._batch_size)
        predicted = probabilities.argmax(axis=1)
        logs["val_loss"] = cross_entropy(probabilities, self._labels)
        logs["val_accuracy"] = float((predicted == self._labels).mean())
        logs["val_macro_f1"] = metrics.macro(metrics.classwise(self._labels, predicted, probabilities.shape[1]).f1)


class Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """One line an epoch; stops a training whose loss is no longer a number. Stands after the others."""

    def __init__(self, epochs: int, log: Callable[[str], None]) -> None:
        super().__init__()
        self._epochs, self._log = epochs, log

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._training = self._epoch = time.monotonic()
        self._done = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        rate = logs["learning_rate"]
        if not math.isfinite(logs["loss"] + logs["val_loss"]):
            raise ParamsError(
                f"The loss is no longer a number in epoch {epoch + 1}, at the learning rate {rate:g}: "
                f"the training diverged. Set a lower learning_rate, for example {rate / 10:g}."
            )
        now = time.monotonic()
        self._done += 1
        left = (now - self._training) / self._done * (self._epochs - epoch - 1)
        self._log(
            f"epoch {epoch + 1}/{self._epochs}  loss {logs['loss']:.4f}  val_loss {logs['val_loss']:.4f}  "
            f"val_macro_f1 {logs['val_macro_f1']:.4f}  learning_rate {rate:g}  {now - self._epoch:.1f} s, "
            f"at most {left / 60:.1f} min left"
        )
        self._epoch = now


class Resumable(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the whole state of a training, so that a killed one goes on as if it had never stopped.

    The state is that of the end of an epoch: weights, the optimizer's and the random generators' state, the counters of
    plateau and early stop, the best weights, the history. It goes to the checkpoint at most every
    GESSO_CHECKPOINT_SECONDS, and at once where the process is told to stop (SIGTERM). Stands after the others.
    """

    def __init__(self, checkpoint: Checkpoint, file: Path, plateau: Any, stop: Any, log: Callable[[str], None]) -> None:
        """Prepare it.

        Args:
            checkpoint: where the state is kept.
            file: a local path for it on its way there.
            plateau: the ReduceLROnPlateau callback.
            stop: the EarlyStopping callback.
            log: prints a line.
        """
        super().__init__()
        self._checkpoint, self._file, self._plateau, self._stop, self._log = checkpoint, file, plateau, stop, log
        self._state: dict[str, Any] | None = None  # not yet kept
        self._kept = time.monotonic()
        self._restored: dict[str, Any] = {}
        self.history: list[dict[str, float]] = []

    def restore(self, model: Any) -> bool:
        """Give the compiled model the state that was kept; False where there is none that can be used."""
        if not self._checkpoint.load(self._file):
            return False
        try:
            with self._file.open("rb") as file, np.load(file) as arrays:
                facts = json.loads(arrays["facts"].tobytes())
                variables = [arrays[f"variable_{at}"] for at in range(facts["variables"])]
                best = [arrays[f"best_{at}"] for at in range(facts["best"])]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return False
        model.optimizer.build(model.trainable_variables)
        for variable, value in zip(_variables(model), variables, strict=True):
            variable.assign(value)
        self._restored = facts | {"best_weights": best}
        self.history = facts["history"]
        return True

    @property
    def is_over(self) -> bool:
        """Whether the restored training had stopped early."""
        return bool(self._restored) and self._restored["stop"]["wait"] >= self._stop.patience

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        # Keras' callbacks forget their counters when a training begins.
        for name in ("plateau", "stop"):
            vars(getattr(self, f"_{name}")).update(self._restored.get(name, {}))
        if self._restored:
            self._stop.best_weights = self._restored["best_weights"]

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.history = [*self.history, {name: float(logs[name]) for name in COLUMNS}]
        facts = {
            "history": self.history,
            "plateau": {name: getattr(self._plateau, name) for name in ("best", "wait", "cooldown_counter")},
            "stop": {name: getattr(self._stop, name) for name in ("best", "wait", "best_epoch")},
        }
        variables = [keras.ops.convert_to_numpy(variable).copy() for variable in _variables(self.model)]
        self._state = facts | {"arrays": variables, "best_weights": self._stop.best_weights or []}
        if time.monotonic() - self._kept >= settings().checkpoint_seconds:
            try:
                self.keep()
            except StoreError as error:  # the training itself needs no store before its end
                self._log(f"The training's state could not be kept, and it goes on without: {error}")

    def keep(self) -> None:
        """Send the latest state to the checkpoint, unless it is there."""
        if self._state is None:
            return
        state, self._state = dict(self._state), None
        variables, best = state.pop("arrays"), state.pop("best_weights")
        facts = json.dumps(state | {"variables": len(variables), "best": len(best)}).encode()
        with self._file.open("wb") as file:
            np.savez(
                file,
                facts=np.frombuffer(facts, np.uint8),
                **{f"variable_{at}": value for at, value in enumerate(variables)},
                **{f"best_{at}": value for at, value in enumerate(best)},
            )
        self._kept = time.monotonic()
        self._checkpoint.save(self._file)


def _variables(model: Any) -> list[Any]:
    """All that changes while a model is trained, without what its metrics add up within an epoch."""
    metrics_variables = {id(variable) for variable in model.metrics_variables}
    own = [variable for variable in model.variables if id(variable) not in metrics_variables]
    return [*own, *model.optimizer.variables]


def fit(
    model: Any,
    batches: Batches,
    validation: Validation,
    *,
    epochs: int,
    learning_rate: float,
    momentum: float,
    plateau_patience: int,
    stop_patience: int,
    checkpoint: Checkpoint,
    file: Path,
    log: Callable[[str], None],
) -> tuple[pd.DataFrame, int]:
    """Train by SGD, and leave the model with the weights of the epoch with the lowest validation loss.

    The learning rate is halved after `plateau_patience` epochs without a lower validation loss, and training ends
    after `stop_patience` of them. A training whose state is in `checkpoint` goes on from it, and ends with the same
    weights as one that was never stopped. `file` is a local path that the state takes on its way.

    Returns:
        The history, one row an epoch (epoch, loss, accuracy, val_loss, val_accuracy, val_macro_f1, learning_rate;
        `loss` weighs the classes, `val_loss` does not), and the number of the best epoch. Epochs count from 1.

    Raises:
        ParamsError: the loss is no longer a number.
        Interrupted: the process was told to stop; the checkpoint holds the last finished epoch.
    """
    plateau = keras.callbacks.ReduceLROnPlateau(
        "val_loss", mode="min", factor=0.5, patience=plateau_patience, min_delta=0
    )
    stop = keras.callbacks.EarlyStopping("val_loss", mode="min", patience=stop_patience, restore_best_weights=True)
    resumable = Resumable(checkpoint, file, plateau, stop, log)
    model.compile(
        optimizer=keras.optimizers.SGD(learning_rate, momentum=momentum),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        # On a CPU what XLA compiles is about four times as slow as TensorFlow's own kernels.
        jit_compile="auto" if keras.distribution.list_devices("gpu") else False,
    )
    if resumable.restore(model):
        batches.first_epoch = len(resumable.history)
        log(f"Going on after epoch {batches.first_epoch}, from {checkpoint.uri}.")
    try:
        if batches.first_epoch < epochs and not resumable.is_over:
            model.fit(
                batches,
                steps_per_epoch=batches.steps,
                initial_epoch=batches.first_epoch,
                epochs=epochs,
                verbose=0,
                shuffle=False,
                callbacks=[validation, plateau, stop, Progress(epochs, log), resumable],
            )
        else:
            resumable.on_train_begin()
            model.set_weights(stop.best_weights)
    except Interrupted:
        resumable.keep()
        raise
    finally:
        file.unlink(missing_ok=True)
        batches.first_epoch = 0
    history = pd.DataFrame(resumable.history)[list(COLUMNS)]
    history.insert(0, "epoch", np.arange(1, len(history) + 1))
    return history, stop.best_epoch + 1
