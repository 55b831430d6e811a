"""A small world to judge models in: plain-coloured images, and real networks that read one colour channel each.

Each channel of an image names its class as a level of brightness, some of them wrongly:
    red    right for class 0; wrong for every fourth image of the others (if there are two)
    green  names the last class for every fourth image of class 0; right for the others
    blue   always right
So a network that goes by blue beats one that goes by red, and one that goes by green beats it too, but for class 0.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from tasks.core.artifacts import Artifact, Output, artifact_key
from tasks.core.checkpoint import Checkpoint
from tasks.core.step import commit
from tasks.core.store import Store
from tasks.snapshot import NO_VERSIONS

CHANNELS = {"red": 0, "green": 1, "blue": 2}
CLASSES = ["L2_3", "b", "class", "꽃 $x$"]


def colours(images: pd.DataFrame, classes: int) -> np.ndarray:
    """The colour [n, 3] of each image, by its label and its number within its class."""
    label, number = images["label"].to_numpy(), images["number"].to_numpy()
    wrong = 1 + label % (classes - 1)
    levels = np.stack(
        [
            np.where((label > 0) & (number % 4 == 0), wrong, label),
            np.where((label == 0) & (number % 4 == 0), classes - 1, label),
            label,
        ],
        axis=1,
    )
    return np.round(levels * 255 / (classes - 1)).astype(np.uint8)


def make(
    store: Store, step: str, files: Callable[[Output], None], tmp: Path, made_of: Any = None, **manifest: Any
) -> Artifact:
    """Commit an artifact that the step `step` could have made."""
    folder = tmp / f"{step}-{len(list(tmp.iterdir()))}"
    folder.mkdir()
    out = Output(folder, store, Checkpoint(store, "judged"))
    files(out)
    facts = {"params": {}, "inputs": {}, "metrics": {}, "seconds": 1.0, "made_at": "2026-01-05T00:00:00+00:00"}
    facts |= manifest
    key = artifact_key(step, "test", facts["params"], facts["inputs"], made_of)
    return commit(store, {"step": step, "key": key, **facts}, out)


class World:
    """A data set folder, its snapshot and its pack, and models trained on it."""

    def __init__(
        self,
        store: Store,
        tmp: Path,
        classes: list[str] = CLASSES,
        size: int = 16,
        test: int = 20,
        split: int = 0,
        drawn: int | None = None,
    ) -> None:
        """Make the data.

        Args:
            size: side of the pack's images.
            test: test images a class; as many again train, and a fourth of that validates.
            split: another number, another split of the same images.
            drawn: images a class that are drawn for training; None: all of them.
        """
        self.drawn = drawn
        self.store, self.tmp, self.classes, self.size = (
            store,
            tmp / f"world-{size}-{split}-{len(classes)}",
            classes,
            size,
        )
        self.tmp.mkdir(parents=True, exist_ok=True)
        self.dataset = tmp / "pictures"
        parts = np.roll(["test"] * test + ["train"] * test + ["validation"] * -(-test // 4), split)
        images = pd.DataFrame(
            [
                {"key": f"{name}/{number:03}.png", "class": name, "label": label, "number": number, "part": part}
                for label, name in enumerate(classes)
                for number, part in enumerate(parts)
            ]
        )
        images["verdict"], images["duplicate_group"] = "kept", -1
        self.images = images.sample(frac=1, random_state=0, ignore_index=True)
        self.colours = colours(self.images, len(classes))
        self.snapshot = self._snapshot()
        self.validate = self._validate()
        self.cluster = self._cluster()
        self.split()

    def _snapshot(self) -> Artifact:
        keys, digests = self.images["key"], []
        for key, colour in zip(keys, self.colours, strict=True):
            path = self.dataset / key
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = np.full((20, 20, 3), colour[::-1], np.uint8)
                picture[0, 0] = int(hashlib.sha256(key.encode()).hexdigest()[:2], 16)  # no two files alike
                picture[0, 1] = int(hashlib.sha256(key.encode()).hexdigest()[2:4], 16)
                path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
            digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
        self.images["sha256"] = digests

        def files(out: Output) -> None:
            table = self.images[["key", "class"]].assign(version=pd.array([None] * len(keys), "str"))
            out.table("images.parquet", table.sort_values("key"))
            facts = {"dataset": str(self.dataset), "versioned": False, "note": NO_VERSIONS}
            out.json("snapshot.json", facts | {"newest": "2026-01-05T00:00:00+00:00"})

        return make(self.store, "snapshot", files, self.tmp, made_of=str(self.dataset))

    def _validate(self) -> Artifact:
        number = self.images["number"]
        table = self.images[["key", "class"]].assign(
            width=100 + number, height=300, brightness=self.colours.mean(axis=1), duplicates=1 + (number % 10 == 0)
        )
        table["modified"] = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(number, unit="D")
        return make(
            self.store,
            "validate",
            lambda out: out.table("images.parquet", table.sort_values("key")),
            self.tmp,
            made_of=[str(self.dataset), self.classes],
        )

    def _cluster(self) -> Artifact:
        table = self.images[["key", "class"]].assign(cluster=self.images["number"] % 2, verdict="illustration")
        return make(
            self.store,
            "cluster",
            lambda out: out.table("verdicts.parquet", table.sort_values("key")),
            self.tmp,
            inputs={"validate": self.validate.key},
        )

    def judged(self, *models: Artifact) -> dict[str, Artifact | list[Artifact]]:
        """The inputs of `evaluate`."""
        return {
            "snapshot": self.snapshot,
            "validate": self.validate,
            "cluster": self.cluster,
            "resample": self.resample,
            "pack": self.pack,
            "train": list(models),
        }

    def split(self) -> None:
        """Resample and pack the images as they are by now."""
        self.resample = self._resample()
        self.pack = self._pack()

    def _resample(self) -> Artifact:
        table = self.images.drop(columns=["number", "verdict"]).assign(
            row=np.arange(len(self.images)), copies=1, version=None, width=20, height=20
        )

        def files(out: Output) -> None:
            out.table("used.parquet", table)
            ledger = self.images[["key", "class", "part", "sha256", "verdict", "duplicate_group"]]
            out.table("ledger.parquet", ledger.sort_values("key"))
            parts = pd.crosstab(self.images["label"], self.images["part"])
            counts = parts.reindex(columns=["train", "validation", "test"], fill_value=0)
            counts = counts.assign(train_drawn=self.drawn or counts["train"]).set_axis(self.classes)
            out.table("counts.parquet", counts.rename_axis("class").reset_index())
            out.json("classes.json", self.classes)

        told = (self.images[name].tolist() for name in ("part", "verdict", "duplicate_group"))
        made_of = [self.size, self.classes, *told]
        return make(self.store, "resample", files, self.tmp, inputs={"snapshot": self.snapshot.key}, made_of=made_of)

    def _pack(self) -> Artifact:
        rows = np.arange(len(self.images))
        pixels = np.repeat(self.colours, self.size**2, axis=0).reshape(len(rows), self.size, self.size, 3)

        def files(out: Output) -> None:
            out.table("rows.parquet", pd.DataFrame({"row": rows, "file": rows // 50, "offset": rows % 50}))
            for start in range(0, len(rows), 50):
                np.save(out.path(f"{start // 50:03}.npy"), pixels[start : start + 50])

        return make(self.store, "pack", files, self.tmp, inputs={"resample": self.resample.key})

    def model(
        self,
        channel: str,
        name: str = "",
        classes: list[str] | None = None,
        held_out: tuple[str, ...] = ("validation",),
        **metrics: Any,
    ) -> Artifact:
        """A `train` artifact: a network that tells the classes by one channel's level, and did not see `held_out`."""
        known = self.classes if classes is None else classes
        count, sharpness = len(self.classes), 40

        def files(out: Output) -> None:
            import keras

            pixels = keras.Input((self.size, self.size, 3))
            mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
            model = keras.Model(pixels, keras.layers.Dense(len(known), activation="softmax")(mean))
            level = np.array([self.classes.index(each) if each in self.classes else 9 for each in known]) / (count - 1)
            kernel = np.zeros((3, len(known)))
            kernel[CHANNELS[channel]] = 2 * sharpness * level
            bias = -sharpness * level**2
            model.layers[-1].set_weights([kernel, bias])
            model.save(out.path("model.keras"))
            out.json("labels.json", known)
            out.json("model.json", {"image_size": self.size})
            unseen = self.images["part"].isin(held_out)
            powers = np.exp(self.colours[unseen] / 255 @ kernel + bias)
            probabilities = pd.DataFrame(powers / powers.sum(axis=1, keepdims=True)).add_prefix("p_")
            table = self.images.loc[unseen, ["key", "class"]].reset_index(drop=True)
            table["predicted"] = [known[best] for best in probabilities.to_numpy().argmax(axis=1)]
            out.table("validation.parquet", pd.concat([table, probabilities], axis=1))

        facts = {"architecture": f"{channel}{name}", "val_macro_f1": 0.5, "val_accuracy": 0.5, "val_loss": 1.0}
        facts |= {"parameters": 16, "epochs": 3, "best_epoch": 2} | metrics
        return make(
            self.store,
            "train",
            files,
            self.tmp,
            inputs={"resample": self.resample.key},
            params={"fold": facts.get("fold", 0)},
            metrics=facts,
            made_of=[channel, name, known, held_out, metrics],
        )
