"""The devices that train, and how a training is best executed on them."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from tasks.core.params import TrainShared

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
if DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
    # Here, since JAX hears nothing of it any more once a device was looked for.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()


class Execution(NamedTuple):
    """How a training is executed. It changes a result's last digits, and by a few images a batch; artifacts note it."""

    precision: str
    """What activations are computed in: float32, bfloat16 or float16 (then the loss is scaled); weights are float32."""
    xla: bool
    """Whether XLA compiles the step."""
    steps_per_execution: int
    """How many steps go to the device at a time."""
    feed: str
    """`warped`: images are warped here, by threads; `raw`: they are sent as they are and warped in the step;
    `resident`: all are on the device and a batch is gathered there."""
    devices: int
    """How many devices share a batch."""


def names() -> list[str]:
    """The devices that would train: all GPUs of this machine, or its CPU."""
    found: list[str] = keras.distribution.list_devices()
    return found


def backend() -> str:
    """What Keras computes with: tensorflow or jax."""
    return str(keras.backend.backend())


def name() -> str:
    """The model of the first device, or cpu."""
    if not has_gpu():
        return "cpu"
    if backend() == "tensorflow":
        return str(_tensorflow_details().get("device_name", "gpu"))
    import jax

    return str(jax.devices()[0].device_kind)


def has_gpu() -> bool:
    """Whether there is an accelerator."""
    return not names()[0].startswith("cpu")


def compiles() -> bool:
    """Whether XLA compiles what isn't told otherwise.

    On a CPU its code is about four times as slow as TensorFlow's own kernels; JAX knows no other way.
    """
    return backend() == "jax" or has_gpu()


def choose(params: TrainShared, pack_bytes: int) -> Execution:
    """How to execute a training here: what the params ask for, and else what suits the devices.

    Args:
        params: those of the training.
        pack_bytes: how much memory the training images take as uint8.
    """
    gpu, devices = has_gpu(), len(names())
    precision: str = params.precision
    if precision == "auto":
        precision = _fastest_precision() if gpu else "float32"
    feed = "warped"
    if gpu:  # a copy of the images in the memory of each of several GPUs buys little: sending them is enough
        feed = "resident" if devices == 1 and pack_bytes <= memory() / 2 else "raw"
    xla = compiles() if params.xla == "auto" or backend() == "jax" else params.xla == "on"
    return Execution(precision, xla, params.steps_per_execution or (16 if gpu else 1), feed, devices)


def _fastest_precision() -> str:
    """bfloat16 from Ampere on, float16 from Volta on: what their tensor cores take."""
    major = _capability()
    return "bfloat16" if major >= 8 else "float16" if major >= 7 else "float32"


def _tensorflow_details() -> dict[str, Any]:
    import tensorflow

    (gpu, *_) = tensorflow.config.list_physical_devices("GPU")
    return dict(tensorflow.config.experimental.get_device_details(gpu))


def _capability() -> int:
    if backend() == "tensorflow":
        return int(_tensorflow_details().get("compute_capability", (0, 0))[0])
    import jax

    return int(float(getattr(jax.devices()[0], "compute_capability", 0)))


def memory() -> int:
    """Bytes of memory that the framework may use on the first GPU."""
    if backend() == "tensorflow":
        from tensorflow.python.client import device_lib

        return max(int(d.memory_limit) for d in device_lib.list_local_devices() if d.device_type == "GPU")
    import jax

    return int((jax.devices()[0].memory_stats() or {}).get("bytes_limit", 0))


def peak_memory() -> int | None:
    """The most bytes that the framework held on the first GPU; None without one."""
    if not has_gpu():
        return None
    if backend() == "tensorflow":
        import tensorflow

        return int(tensorflow.config.experimental.get_memory_info("GPU:0")["peak"])
    import jax

    return int((jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))


@contextlib.contextmanager
def watched() -> Iterator[list[float]]:
    """Inside, `nvidia-smi` samples how busy the GPUs are; afterwards the list holds the shares of time that it saw.

    It stays empty without a GPU, and where there is no `nvidia-smi`.
    """
    shares: list[float] = []
    with tempfile.TemporaryFile() as samples:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop=5"]
        sampler = None
        if has_gpu():
            with contextlib.suppress(OSError):  # not every image has it
                sampler = subprocess.Popen(command, stdout=samples, stderr=subprocess.DEVNULL)
        try:
            yield shares
        finally:
            if sampler:
                sampler.terminate()
                sampler.wait()
            samples.seek(0)
            shares += [int(share) / 100 for share in samples.read().split() if share.isdigit()]


def make_deterministic(xla: bool) -> None:
    """Make the same training give the same weights, bit for bit, on the same machine.

    Before the first model.
    """
    if backend() == "tensorflow" and not xla:  # XLA was told when this module was imported
        # TensorFlow adds up gradients in the order in which its threads finish, unless told not to, and Keras has
        # no switch for it. (Told so, Keras refuses to compile with XLA.)
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Inside, models are built and trained on all devices: each takes its part of every batch."""
    found = names()
    if len(found) == 1:
        yield
    elif backend() == "tensorflow":
        import tensorflow

        with tensorflow.distribute.MirroredStrategy([name.upper() for name in found]).scope():
            yield
    else:
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=found, auto_shard_dataset=False))
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is a framework's way to say that memory is used up."""
    return isinstance(error, MemoryError) or any(
        sign in f"{type(error).__name__} {error}"
        for sign in ("RESOURCE_EXHAUSTED", "ResourceExhausted", "OOM when", "Out of memory")
    )


def dtype_policy(precision: str) -> Any:
    """Keras' policy for a precision."""
    return keras.DTypePolicy(precision if precision == "float32" else f"mixed_{precision}")
