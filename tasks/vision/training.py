"""The training loop: the fit, the validation after each epoch, the state that a killed training goes on from."""

import gc
import json
import math
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core.checkpoint import Checkpoint
from tasks.core.errors import DataError, ParamsError, StoreError
from tasks.core.params import TrainShared
from tasks.core.settings import settings
from tasks.vision import devices, metrics, models
from tasks.vision.feed import Batches, Labels, Rows, Trainee
from tasks.vision.pack import Pack

Probabilities = npt.NDArray[np.float32]

COLUMNS = ("loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1", "learning_rate")
"""The history's columns beside `epoch`."""


class Diverged(ParamsError):
    """The loss is no longer a number. The network has the weights of the best epoch, where there was one."""

    best_epoch = 0
    """Its number, from 1; 0: there was none."""


@dataclass(frozen=True)
class Fitted:
    """How a training went."""

    history: pd.DataFrame
    """One row an epoch: epoch (from 1), loss, accuracy, val_loss, val_accuracy, val_macro_f1, learning_rate. `loss`
    weighs and smooths as the params say, `val_loss` does not."""
    best_epoch: int
    """The one with the lowest validation loss."""
    seconds: float
    """How long it took, all tries of a training that was killed in between counted up to what they kept."""
    seconds_to_best: float
    """How long until the end of the best epoch."""


def predict(network: Any, pack: Pack, rows: Rows, batch_size: int) -> Probabilities:
    """Class probabilities [rows, classes] of images in a pack."""
    share, found = len(devices.names()), []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        # Several devices take equal parts (JAX), or each takes it all (TensorFlow): the rest is cut off.
        even = np.resize(batch, -(-len(batch) // share) * share)
        found.append(network.predict_on_batch(pack.gather(even))[: len(batch)])
    return np.concatenate(found)


def cross_entropy(probabilities: Probabilities, labels: Labels) -> float:
    """Mean negative log-likelihood in nats, each class as it occurs; probabilities below 1e-7 count as 1e-7."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, 1e-7)).mean())


def scores(probabilities: Probabilities, labels: Labels) -> dict[str, float]:
    """The val_loss, val_accuracy and val_macro_f1 of class probabilities [images, classes]."""
    predicted = probabilities.argmax(axis=1)
    return {
        "val_loss": cross_entropy(probabilities, labels),
        "val_accuracy": float((predicted == labels).mean()),
        "val_macro_f1": metrics.macro(metrics.classwise(labels, predicted, probabilities.shape[1]).f1),
    }


class Validation(keras.callbacks.Callback):  # type: ignore[misc]
    """Adds val_loss, val_accuracy, val_macro_f1 and the learning rate to an epoch's logs.

    Keras' own validation can't give a macro F1 without a second pass. Stands before the callbacks that read these.
    """

    def __init__(self, network: Any, pack: Pack, rows: Rows, labels: Labels, batch_size: int) -> None:
        super().__init__()
        self._network, self._pack, self._rows, self._labels = network, pack, rows, labels
        self._batch_size = batch_size

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        logs |= scores(predict(self._network, self._pack, self._rows, self._batch_size), self._labels)
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


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
            raise Diverged(
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
    GESSO_CHECKPOINT_SECONDS, and at once where the process is told to stop (SIGTERM, Ctrl-C). Stands after the others.
    """

    def __init__(
        self,
        network: Any,
        identity: Mapping[str, Any],
        conditions: Mapping[str, Any],
        checkpoint: Checkpoint,
        file: Path,
        plateau: Any,
        stop: Any,
        log: Callable[[str], None],
    ) -> None:
        """Prepare it.

        Args:
            network: what is trained.
            identity: what tells it from another network; fit for JSON.
            conditions: what the state depends on beside; under others the training begins anew. Fit for JSON.
            checkpoint: where the state is kept.
            file: a local path for it on its way there.
            plateau: the ReduceLROnPlateau callback.
            stop: the EarlyStopping callback.
            log: prints a line.
        """
        super().__init__()
        self._network, self._identity, self._conditions = network, dict(identity), dict(conditions)
        self._checkpoint, self._file, self._plateau, self._stop, self._log = checkpoint, file, plateau, stop, log
        self._state: dict[str, Any] = {}
        self._is_kept = True
        self._kept = self._started = time.monotonic()
        self._counters: dict[str, dict[str, Any]] = {}
        self.frozen = False
        """Whether these are the epochs in which a part of the network is frozen."""
        self.first_epoch = 0
        """The epoch that these, the frozen ones or the others, begin with."""

    def load(self) -> bool:
        """Read the state that was kept; False where there is none that can be used.

        Raises:
            DataError: it is another network's.
        """
        if not self._checkpoint.load(self._file):
            return False
        try:
            with self._file.open("rb") as file, np.load(file) as arrays:
                state = json.loads(arrays["facts"].tobytes())
                for name in ("variables", "best_weights"):
                    state[name] = [arrays[f"{name}_{at}"] for at in range(state[name])]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return False
        kept = state["identity"]
        differing = [
            f"{name} {kept.get(name)}, not {own}" for name, own in self._identity.items() if kept.get(name) != own
        ]
        if differing:
            raise DataError(
                f"The state in {self._checkpoint.uri} is that of another network: {'; '.join(differing)}. Delete it "
                f"and run again: the training begins anew."
            )
        if state["conditions"] != self._conditions:
            then, now = (
                ", ".join(f"{name} {value}" for name, value in each.items())
                for each in (state["conditions"], self._conditions)
            )
            self._log(f"The state in {self._checkpoint.uri} is of {then}, not {now}: the training begins anew.")
            return False
        self._state = state
        self._started -= state["seconds"]
        return True

    def begin(self, frozen: bool) -> None:
        """Go over to the epochs in which a part is frozen, or to those in which all is trained."""
        self.frozen = frozen
        self.first_epoch = self._state["first_epoch"] if self._goes_on else len(self.history)

    def take_up(self, trainee: Any) -> None:
        """Give the network, and the compiled optimizer, the state that they go on from.

        The epochs in which all is trained begin with the best weights of those before, a new optimizer and all
        patience.
        """
        if not self._state:
            return
        variables, counters = list(self._network.variables), {name: self._state[name] for name in ("plateau", "stop")}
        if self._goes_on:
            variables += trainee.optimizer.variables
        else:
            counters = {"stop": counters["stop"] | {"wait": 0}}
        for variable, value in zip(variables, self._state["variables"], strict=self._goes_on):
            variable.assign(value)
        if not self._goes_on:
            self._network.set_weights(self.best_weights)
        self._counters = counters

    @property
    def _goes_on(self) -> bool:
        return bool(self._state) and self._state["frozen"] == self.frozen

    @property
    def was_frozen(self) -> bool:
        """Whether the state is of an epoch in which a part was frozen, or of none."""
        return not self._state or bool(self._state["frozen"])

    @property
    def is_over(self) -> bool:
        """Whether these epochs had been ended early."""
        return bool(self._counters) and self._counters["stop"]["wait"] >= self._stop.patience

    @property
    def history(self) -> list[dict[str, float]]:
        """The epochs so far."""
        epochs: list[dict[str, float]] = self._state.get("history", [])
        return epochs

    @property
    def best_weights(self) -> list[Any]:
        """The weights of the best epoch; none before the first."""
        weights: list[Any] = self._state.get("best_weights", [])
        return weights

    @property
    def best_epoch(self) -> int:
        """Its number, from 1."""
        return int(self._state["stop"]["best_epoch"]) + 1

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        # Keras' callbacks forget their counters when a training begins.
        for name, counters in self._counters.items():
            vars(getattr(self, f"_{name}")).update(counters)
        if self._state:
            self._stop.best_weights = self.best_weights

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        seconds = time.monotonic() - self._started
        variables = [*self._network.variables, *self.model.optimizer.variables]
        self._state = {
            "identity": self._identity,
            "conditions": self._conditions,
            "history": [*self.history, {name: float(logs[name]) for name in COLUMNS} | {"seconds": seconds}],
            "plateau": {name: getattr(self._plateau, name) for name in ("best", "wait", "cooldown_counter")},
            "stop": {name: getattr(self._stop, name) for name in ("best", "wait", "best_epoch")},
            "frozen": self.frozen,
            "first_epoch": self.first_epoch,
            "seconds": seconds,
            "variables": [keras.ops.convert_to_numpy(variable).copy() for variable in variables],
            "best_weights": self._stop.best_weights or [],
        }
        self._is_kept = False
        if time.monotonic() - self._kept >= settings().checkpoint_seconds:
            try:
                self.keep()
            except StoreError as error:  # the training itself needs no store before its end
                self._log(f"The training's state could not be kept, and it goes on without: {error}")

    def keep(self) -> None:
        """Send the latest state to the checkpoint, unless it is there."""
        if self._is_kept:
            return
        arrays = {name: self._state[name] for name in ("variables", "best_weights")}
        facts = json.dumps({**self._state, **{name: len(values) for name, values in arrays.items()}}).encode()
        named = {f"{name}_{at}": value for name, values in arrays.items() for at, value in enumerate(values)}
        with self._file.open("wb") as file:
            np.savez(file, facts=np.frombuffer(facts, np.uint8), **named)
        self._kept = time.monotonic()
        try:
            self._checkpoint.save(self._file)
        except StoreError:
            self._is_kept = True  # or as good as: it is not tried again before the next epoch
            raise
        self._is_kept = True


def _optimizer(params: TrainShared, rate: float, steps: int, warmup: int, precision: str) -> Any:
    """The optimizer of `steps` steps, the first `warmup` of them for the learning rate to rise to `rate`."""
    schedule: Any = rate
    if params.schedule == "cosine":
        rising = {"warmup_target": rate, "warmup_steps": warmup} if warmup else {}
        schedule = keras.optimizers.schedules.CosineDecay(0.0 if warmup else rate, max(1, steps - warmup), **rising)
    if params.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=params.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    else:
        optimizer = keras.optimizers.SGD(schedule, momentum=params.momentum)
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "float16" else optimizer


def fit(
    network: Any,
    batches: Batches,
    validation: Validation,
    params: TrainShared,
    execution: devices.Execution,
    *,
    identity: Mapping[str, Any],
    checkpoint: Checkpoint,
    file: Path,
    log: Callable[[str], None],
) -> Fitted:
    """Train, and leave the network with the weights of the epoch with the lowest validation loss.

    By SGD or AdamW. The learning rate is halved after `plateau_patience` epochs without a lower validation loss, or
    follows a cosine (Loshchilov and Hutter 2017) after a linear warm-up; training ends after `stop_patience` epochs
    without a lower validation loss. With `freeze_epochs` only the head of the network is trained at first. A training
    whose state is in `checkpoint` goes on from it, and ends with the same weights as one that was never stopped.

    Args:
        network: from `models.build`.
        batches: the training images.
        validation: the validation images.
        params: how to train.
        execution: how to execute it.
        identity: what tells the network from another one; fit for JSON.
        checkpoint: where the state is kept.
        file: a local path that the state takes on its way.
        log: prints a line.

    Raises:
        Diverged: the loss is no longer a number; the network has the weights of the best epoch before.
        ParamsError: a batch doesn't fit into memory; says which does.
        DataError: the checkpoint is another network's.
        KeyboardInterrupt: the process was told to stop; the checkpoint holds the last finished epoch.
    """
    plateau = keras.callbacks.ReduceLROnPlateau(
        "val_loss", mode="min", factor=0.5, patience=params.plateau_patience, min_delta=0
    )
    stop = keras.callbacks.EarlyStopping(
        "val_loss", mode="min", patience=params.stop_patience, restore_best_weights=True
    )
    # Another device's optimizer may hold other variables, and a schedule counts steps.
    conditions = {"precision": execution.precision, "steps an epoch": batches.steps}
    resumable = Resumable(network, identity, conditions, checkpoint, file, plateau, stop, log)
    freeze_epochs = params.freeze_epochs if models.has_body(network) else 0
    trainee = Trainee(network, batches.resident, batches.devices)

    def train(frozen: bool, until: int) -> None:
        """Train the epochs up to this one, or what is left of them."""
        resumable.begin(frozen)
        thawed = freeze_epochs > 0 and not frozen
        if freeze_epochs:
            models.freeze(network, frozen)
        steps = (until - resumable.first_epoch) * batches.steps
        warmup = 0 if thawed else params.warmup_epochs * batches.steps
        rate = params.learning_rate * (params.unfrozen_rate if thawed else 1)
        _compile(trainee, _optimizer(params, rate, steps, warmup, execution.precision), execution, batches)
        resumable.take_up(trainee)
        batches.first_epoch = len(resumable.history)
        if batches.first_epoch < until and not resumable.is_over:
            lower = [plateau] if params.schedule == "plateau" else []
            with batches:
                trainee.fit(
                    batches,
                    steps_per_epoch=batches.steps,
                    initial_epoch=batches.first_epoch,
                    epochs=until,
                    verbose=0,
                    shuffle=False,
                    callbacks=[validation, *lower, stop, Progress(params.epochs, log), resumable],
                )
        else:
            network.set_weights(resumable.best_weights)

    is_full = False
    try:
        if resumable.load():
            log(f"Going on after epoch {len(resumable.history)}, from {checkpoint.uri}.")
        if freeze_epochs and resumable.was_frozen:
            train(True, min(freeze_epochs, params.epochs))
        if freeze_epochs < params.epochs:
            train(False, params.epochs)
    except KeyboardInterrupt:
        resumable.keep()
        raise
    except Diverged as error:
        if not resumable.best_weights:
            raise
        network.set_weights(resumable.best_weights)
        told = Diverged(f"{error} The weights of epoch {resumable.best_epoch} are kept, the best until then.")
        told.best_epoch = resumable.best_epoch
        raise told from None
    except Exception as error:
        if not devices.is_out_of_memory(error):
            raise
        is_full = True  # what the error's traceback holds is still in memory
    finally:
        file.unlink(missing_ok=True)
        batches.first_epoch = 0
    if is_full:
        del trainee, resumable
        raise ParamsError(_too_large(network, batches, params, execution))
    seconds = [done["seconds"] for done in resumable.history]
    history = pd.DataFrame(resumable.history)[list(COLUMNS)]
    history.insert(0, "epoch", np.arange(1, len(history) + 1))
    return Fitted(history, resumable.best_epoch, seconds[-1], seconds[resumable.best_epoch - 1])


def _compile(trainee: Trainee, optimizer: Any, execution: devices.Execution, batches: Batches) -> None:
    trainee.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=execution.xla,
        steps_per_execution=batches.steps_per_execution,
    )
    # TensorFlow traces a step a second time where the first made variables, and for a deep network that takes seconds.
    trainee.optimizer.build(trainee.trainable_variables)


def _too_large(network: Any, batches: Batches, params: TrainShared, execution: devices.Execution) -> str:
    """What to say of a batch that doesn't fit into memory, after trying smaller ones on a copy of the network."""
    said = f"A batch of {params.batch_size} images doesn't fit into memory. "
    size = params.batch_size // 2
    while size:
        gc.collect()
        try:
            trial = Trainee(keras.models.clone_model(network), parts=batches.devices)
            _compile(trial, _optimizer(params, params.learning_rate, 1, 0, execution.precision), execution, batches)
            trial.train_on_batch(*batches.zeros(size))
        except Exception:  # where memory is used up, libraries below fail in ways of their own
            size //= 2
        else:
            return f"{said}One of {size} does: set batch_size = {size}."
    return f"{said}Not even one image does: set a smaller image_size, or another architecture."
