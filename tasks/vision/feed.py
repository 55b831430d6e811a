"""What a training is fed: the stream of batches, and what happens to a batch inside the step.

A batch is the same whichever way it is fed (`devices.Execution.feed`).
"""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import cv2
import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tasks.core.settings import settings
from tasks.vision import augment
from tasks.vision.pack import Pack

Rows = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Batch = tuple[dict[str, npt.NDArray[Any]], Floats, Floats]


def class_weights(labels: Labels, classes: int) -> Floats:
    """The weight of each class [classes] that makes all classes count the same: n / (classes * n_c)."""
    return (len(labels) / (classes * np.bincount(labels, minlength=classes))).astype(np.float32)


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """An endless stream of training batches: (inputs of a `Trainee`, targets [n, classes], weights [n]).

    Batch number `step` is a function of the seed and `step` alone, whatever thread makes it and when. The next ones are
    made by threads while a step runs.
    """

    def __init__(
        self,
        pack: Pack,
        rows: Rows,
        labels: Labels,
        weights: Floats,
        *,
        batch_size: int,
        augmented: bool,
        seed: int,
        smoothing: float = 0.0,
        mixup: float = 0.0,
        feed: str = "warped",
        steps_per_execution: int = 1,
        devices: int = 1,
    ) -> None:
        """Prepare the stream.

        Args:
            pack: the images.
            rows: the row of each drawn image; a row may come more than once.
            labels: the label of each drawn image.
            weights: the weight of each label in the loss.
            batch_size: images a step, at most.
            augmented: whether images are warped.
            seed: of the order, the warps and the mixtures.
            smoothing: share of a target that all classes get alike (Szegedy et al. 2016).
            mixup: alpha of the Beta distribution of mixtures (Zhang et al. 2018); 0: none.
            feed, steps_per_execution, devices: as in `devices.Execution`.
        """
        super().__init__()
        self._pack, self._rows, self._labels, self._weights = pack, rows, labels, weights
        self._augmented, self._seed, self._mixup, self._feed = augmented, seed, mixup, feed
        classes = len(weights)
        self._targets = (np.eye(classes) * (1 - smoothing) + smoothing / classes).astype(np.float32)
        # Whole executions, and equal parts for the devices.
        self.devices = devices
        """Into how many parts a batch is divided."""
        units = math.ceil(len(rows) / devices)
        steps = math.ceil(len(rows) / batch_size)
        executions = math.ceil(steps / steps_per_execution)
        together = math.ceil(steps / executions)  # alike, so that hardly a step is added to make the last one whole
        if executions * together > units:
            executions, together = min(steps, units), 1
        self.steps_per_execution = together
        self.steps = executions * together
        """Batches an epoch."""
        self.first_epoch = 0
        """The epoch that the stream begins with."""
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[int, Future[Batch]] = {}
        self._resident_rows = np.unique(rows)

    @property
    def num_batches(self) -> None:
        """None: endless."""
        return None

    @property
    def resident(self) -> npt.NDArray[np.uint8] | None:
        """The images that a `Trainee` keeps on its device, where they are fed so."""
        return self._pack.gather(self._resident_rows) if self._feed == "resident" else None

    def __enter__(self) -> "Batches":
        """Make batches ahead, by threads."""
        if self._feed != "resident":
            self._pool = ThreadPoolExecutor(settings().threads, "batches")
            self._opencvs_threads = cv2.getNumThreads()
            cv2.setNumThreads(1)  # a thread has a whole batch to make
        return self

    def __exit__(self, *_: object) -> None:
        pool, self._pool = self._pool, None
        self._ahead = {}
        if pool is not None:
            pool.shutdown(cancel_futures=True)
            cv2.setNumThreads(self._opencvs_threads)

    def __getitem__(self, step: int) -> Batch:
        pool = self._pool
        if pool is None:
            return self.make(step)
        ahead = self._ahead
        for later in range(step, step + settings().threads + 2):
            if later not in ahead:
                try:
                    ahead[later] = pool.submit(self.make, later)
                except RuntimeError:  # the training is over, and a queue is still being filled
                    return self.make(step)
        for past in [past for past in ahead if past < step]:
            del ahead[past]
        return ahead[step].result()

    def make(self, step: int) -> Batch:
        """Batch number `step`."""
        epoch, index = divmod(step, self.steps)
        epoch += self.first_epoch
        drawn = self._drawn(epoch, index)
        rng = np.random.default_rng([self._seed, epoch, index + 1])  # 0 draws the epoch's order
        inputs: dict[str, npt.NDArray[Any]] = {}
        matrices = None
        if self._augmented:
            matrices = augment.matrices(augment.draw(rng, len(drawn)), self._pack.size).astype(np.float32)
        rows = self._rows[drawn]
        if self._feed == "resident":
            inputs["rows"] = np.searchsorted(self._resident_rows, rows).astype(np.int32)
        elif self._feed == "warped" and matrices is not None:
            inputs["images"] = augment.warp(self._pack.gather(rows), matrices)
        else:
            inputs["images"] = self._pack.gather(rows)
        if self._feed != "warped" and matrices is not None:
            inputs["matrices"] = matrices
        labels = self._labels[drawn]
        weights: Floats = self._weights[labels]
        targets: Floats = self._targets[labels]
        if self._mixup:
            share: Floats = rng.beta(self._mixup, self._mixup, len(drawn)).astype(np.float32)
            inputs["share"] = share
            partner = self._partners(len(drawn))
            # Of the mixed image, each of the two counts as its class does.
            own, other = share * weights, (1 - share) * weights[partner]
            weights = own + other
            targets = (own / weights)[:, None] * targets + (other / weights)[:, None] * targets[partner]
        return inputs, targets, weights

    def _partners(self, images: int) -> Rows:
        """The image that each is mixed with: the one as far from the other end of its device's part."""
        return np.arange(images).reshape(self.devices, -1)[:, ::-1].ravel()

    def zeros(self, images: int) -> Batch:
        """A batch of nothing, to try how many images fit into memory."""
        inputs, targets, weights = self.make(0)
        inputs.pop("rows", None)
        inputs["images"] = np.zeros((1, self._pack.size, self._pack.size, 3), np.uint8)
        size = -(-images // self.devices) * self.devices
        return (
            {name: np.zeros((size, *value.shape[1:]), value.dtype) for name, value in inputs.items()},
            np.zeros((size, targets.shape[1]), targets.dtype),
            np.zeros(size, weights.dtype),
        )

    def pictures(self, count: int) -> Sequence[npt.NDArray[np.uint8]]:
        """The first images of the stream, as the network sees them (before any are mixed)."""
        found: list[npt.NDArray[np.uint8]] = []
        for step in range(count):
            drawn = self._drawn(step // self.steps, step % self.steps)
            inputs = self.make(step)[0]
            images = inputs["images"] if "images" in inputs else self._pack.gather(self._rows[drawn])
            found += list(augment.warp(images, inputs["matrices"]) if "matrices" in inputs else images)
            if len(found) >= count:
                break
        return found[:count]

    def _drawn(self, epoch: int, index: int) -> Rows:
        # Of nearly equal size: batch norm has nothing to go by in a last batch of one image.
        order = _order(self._seed, epoch, len(self._rows))
        order = np.resize(order, -(-len(order) // self.devices) * self.devices)
        return np.concatenate(np.array_split(order.reshape(-1, self.devices), self.steps)[index])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> Rows:
    return np.random.default_rng([seed, epoch, 0]).permutation(images)


class Trainee(keras.Model):  # type: ignore[misc]
    """A network together with what happens to its batch inside the compiled step; gives logits [n, classes].

    Its inputs are those of `Batches`: `images` uint8 [n, size, size, 3] or their `rows` in the resident ones,
    `matrices` float32 [n, 2, 3] to warp them by, the `share` [n] of each image where it is mixed with another
    (`Batches`). Its weights are the network's own variables.
    """

    def __init__(self, network: keras.Model, resident: npt.NDArray[np.uint8] | None = None, parts: int = 1) -> None:
        """Prepare it.

        Args:
            network: from `models.build`.
            resident: images to keep on the device.
            parts: into how many parts a batch is divided.
        """
        super().__init__(name=network.name, dtype="float32")  # nothing before the network is rounded
        # TensorFlow shows the step one device's part, JAX the whole batch.
        self._parts = parts if keras.backend.backend() == "jax" else 1
        self.network = keras.Model(network.input, network.get_layer("logits").output, name=network.name)
        self._images = None
        if resident is not None:
            self._images = self.add_weight(
                shape=resident.shape,
                dtype="uint8",
                initializer=lambda *_, **__: ops.convert_to_tensor(resident),
                trainable=False,
                name="images",
            )

    def call(self, inputs: dict[str, Any]) -> Any:
        """The logits of a batch."""
        images = inputs["images"] if "images" in inputs else ops.take(self._images, inputs["rows"], axis=0)
        if "matrices" in inputs:
            images = augment.warp_in_step(images, inputs["matrices"])
        if "share" in inputs:
            share = ops.reshape(inputs["share"], (-1, 1, 1, 1))
            images = ops.cast(images, "float32")
            parts = ops.reshape(images, (self._parts, -1, *images.shape[1:]))
            images = images * share + ops.reshape(ops.flip(parts, axis=1), ops.shape(images)) * (1 - share)
        return self.network(images)

    def get_weights(self) -> list[npt.NDArray[Any]]:
        """The network's weights: callbacks keep the best of these, without the images."""
        weights: list[npt.NDArray[Any]] = self.network.get_weights()
        return weights

    def set_weights(self, weights: list[npt.NDArray[Any]]) -> None:
        """Set the network's weights."""
        self.network.set_weights(weights)
