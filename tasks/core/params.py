"""A run's params: one flat model, made of the sections that the steps read.

A step sees its own section and nothing else, so an artifact's key holds exactly the params that shaped it, and a
changed param makes only what depends on it anew.

    Params.of({"preset": "quick", "epochs": 3})     # a given value wins over the preset's
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tasks.core.errors import ParamsError

Architecture = Literal["baseline", "vgg", "residual"]


def _in_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Instant = Annotated[datetime, AfterValidator(_in_utc)]


class Section(BaseModel):
    """The params of one step."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def for_key(self) -> dict[str, Any]:
        """The params that go into an artifact's key."""
        extras = {name: field.json_schema_extra for name, field in type(self).model_fields.items()}
        observed = {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("observed")}
        return self.model_dump(mode="json", exclude=observed)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The section with these values.

        Raises:
            ParamsError: an unknown name, a wrong type or a value out of its range; says which and what is allowed.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ParamsError("; ".join(_sentence(cls, dict(item)) for item in error.errors())) from None


def _sentence(model: type[BaseModel], error: dict[str, Any]) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"There is no param {name!r}. There are: {', '.join(sorted(model.model_fields))}."
    if not name:
        return f"{error['msg'].removeprefix('Value error, ')}."
    return f"{name} = {error['input']!r}: {error['msg']}."


def _param(default: Any, section: str, text: str, *, observed: bool = False, **limits: Any) -> Any:
    """A param of the trigger form. `observed`: its step looks at what it names, and puts that into the key instead."""
    return Field(default, description=text, json_schema_extra={"section": section, "observed": observed}, **limits)


class Seeded(Section):
    seed: int = _param(0, "Advanced", "Seed of everything random. The same seed gives the same model.", ge=0)


class Sized(Section):
    image_size: int = _param(
        224, "Training", "Side of the square that images are resized to, in pixels.", ge=32, le=512
    )


class SnapshotParams(Section):
    dataset: str = _param(
        "",
        "Data",
        "Folder or s3://bucket/prefix with a folder per class. Empty: GESSO_DATASET.",
        observed=True,
    )
    as_of: Instant | None = _param(
        None,
        "Data",
        "The data set as it was at this instant. Empty: the end of the data interval, or now.",
        observed=True,
    )


class ScanShared(Section):
    """What all shards of a run's scan share."""

    max_megapixels: float = _param(
        100.0,
        "Cleaning",
        "An image with more pixels is quarantined unread: it could fill the memory.",
        gt=0,
        le=1000,
    )


class ScanParams(ScanShared):
    shard: int = Field(0, ge=0, description="Which shard of the snapshot to scan.")
    shards: int = Field(1, ge=1, description="Into how many shards the snapshot is divided.")


class ValidateParams(Section):
    expectations: str = _param(
        "", "Cleaning", "YAML file with the data's expectations. Empty: the built-in ones.", observed=True
    )
    near_duplicate_bits: int = _param(
        4,
        "Cleaning",
        "Pictures whose perceptual hashes differ in at most this many of 64 bits count as one.",
        ge=0,
        le=16,
    )


class EdaParams(Section):
    """The exploration has no params of its own: it shows the data as they came."""


class ClusterParams(Seeded):
    separate: bool = _param(True, "Cleaning", "Tell photographs from illustrations.")
    photo_threshold: float = _param(
        0.8, "Cleaning", "From this probability on an image is a photograph and left out.", ge=0.5, le=1
    )
    unsure_threshold: float = _param(
        0.5,
        "Cleaning",
        "From this probability on an image is unsure: kept, and shown for review.",
        ge=0,
        le=1,
    )
    contaminated: list[str] = _param(
        [], "Cleaning", "Classes that may hold photographs; the others keep every image. Empty: any class may."
    )
    review: str = _param(
        "", "Cleaning", "CSV file with columns key and verdict; it overrules the clustering.", observed=True
    )


class DriftParams(Section):
    drift_threshold: float = _param(
        0.2,
        "Evaluation",
        "The report warns where the data moved further since the champion's: share of the images, or of their spread.",
        gt=0,
    )


class ResampleParams(Seeded, Sized):
    drop_photos: bool = _param(True, "Cleaning", "Leave photographs out of training and evaluation.")
    min_per_class: int = _param(250, "Balancing", "Oversample a smaller class to this many training images.", ge=1)
    max_per_class: int = _param(1000, "Balancing", "Undersample a larger class to this many training images.", ge=1)
    validation_share: float = _param(0.1, "Balancing", "Share of each class that validates.", ge=0.01, le=0.45)
    test_share: float = _param(0.1, "Balancing", "Share of each class that tests.", ge=0.01, le=0.45)


class Lasting(Section):
    epochs: int = _param(60, "Training", "Passes over the training part, at most.", ge=1, le=1000)


class TrainShared(Seeded, Sized, Lasting):
    """What all trainings of a run share."""

    batch_size: int = _param(64, "Training", "Images a step.", ge=1, le=4096)
    learning_rate: float = _param(0.01, "Training", "SGD's learning rate at the start.", gt=0, le=10)
    momentum: float = _param(0.0, "Training", "SGD's momentum.", ge=0, lt=1)
    plateau_patience: int = _param(
        5, "Training", "Epochs without a better validation loss before the learning rate is halved.", ge=1
    )
    stop_patience: int = _param(10, "Training", "Epochs without a better validation loss before training stops.", ge=1)
    class_weights: bool = _param(True, "Training", "Let small classes weigh more in the loss.")
    augment: bool = _param(True, "Training", "Flip, shift, rotate and zoom the training images at random.")


class TrainParams(TrainShared):
    architecture: Architecture = Field("residual", description="The network to train.")
    fold: int = Field(0, ge=0, le=20, description="Which fold of a cross-validation this trains; 0: none of them.")
    of_folds: int = Field(0, ge=0, le=20, description="Into how many folds the cross-validation divides the images.")


class PodParams(Section):
    """What a run asks of the cluster that it trains in. It doesn't shape the model, so it is in no artifact's key."""

    gpus: int = _param(1, "Training", "GPUs of a training pod; 0: it trains on CPUs.", ge=0, le=16)
    gpu_type: str = _param("", "Training", "Type of GPU, as the nodes' label has it. Empty: any.", pattern=r"^[\w.-]*$")


class RunParams(Section):
    """What is asked of a run as a whole. It shapes no artifact, so it is in no artifact's key."""

    dry_run: bool = _param(
        False, "Data", "Stop before the training, and report what would be removed, kept and trained on."
    )
    min_new_images: int = _param(
        100,
        "Data",
        "A scheduled run trains where at least this many images are new, changed or gone since the champion's.",
        ge=0,
    )
    force: bool = _param(False, "Data", "Train on schedule even where too little is new.")
    require_approval: bool = _param(False, "Promotion", "Ask a person before the model is promoted.")
    approval_hours: float = _param(24.0, "Promotion", "How long to wait for the answer.", gt=0, le=24 * 14)
    approval_default: Literal["hold", "approve"] = _param(
        "hold", "Promotion", "What counts where nobody answers in time."
    )


class Resampled(Seeded):
    bootstrap: int = _param(
        1000, "Evaluation", "Resamplings of the test part behind each interval.", ge=100, le=100_000
    )


class EvaluateParams(Resampled):
    licence: str = _param(
        "", "Evaluation", "Licence of the model, such as CC-BY-4.0: its card says so.", max_length=200
    )
    worst_errors: int = _param(24, "Evaluation", "How many of the worst errors the gallery shows.", ge=0, le=200)
    label_suspects: int = _param(
        24, "Evaluation", "How many images with a probably wrong label the gallery shows.", ge=0, le=200
    )


class Answer(Section):
    """What a person said who was asked whether to promote, or what counts instead."""

    answer: Literal["approve", "hold"]
    by: str
    note: str = ""


class PromoteShared(Resampled):
    """What a run says of its promotion beforehand."""

    promote: bool = _param(True, "Promotion", "Let a model that passes every check become the champion.")
    min_macro_f1: float = _param(0.5, "Promotion", "A model below this macro F1 is never promoted.", ge=0, le=1)
    max_class_drop: float = _param(
        0.05, "Promotion", "No class may lose more F1 than this against the champion.", ge=0, le=1
    )


class PromoteParams(PromoteShared):
    approval: Answer | None = Field(None, description="What was answered, where somebody had to be asked.")


class ReportParams(Sized, Lasting):
    """What is to be trained: the report of a dry run says what that would cost."""

    architectures: list[Architecture] = Field(
        ["residual"],
        min_length=1,
        description="Networks to train; the best by validation goes on.",
        json_schema_extra={"section": "Training"},
    )
    folds: int = _param(
        0, "Training", "Cross-validate each architecture in this many folds beside its training; 0: don't.", ge=0, le=20
    )
    hour_price: float = _param(
        0.0, "Training", "Price of an hour on the machine that trains, in your currency. 0: not known.", ge=0
    )


SectionType = TypeVar("SectionType", bound=Section)

#: What each preset sets. `original` is the 2022 work's; the others fit a laptop.
PRESETS: dict[str, dict[str, Any]] = {
    "demo": {
        "architectures": ["baseline"], "image_size": 64, "epochs": 45, "batch_size": 16, "momentum": 0.9,
        "min_per_class": 40, "max_per_class": 120, "validation_share": 0.2, "test_share": 0.2,
    },
    "quick": {
        "architectures": ["baseline"], "image_size": 64, "epochs": 80, "batch_size": 32, "momentum": 0.9,
    },
    "original": {"architectures": ["baseline", "vgg", "residual"], "image_size": 224, "epochs": 200, "momentum": 0.0},
}  # fmt: skip


class Params(
    SnapshotParams,
    ScanShared,
    ValidateParams,
    ClusterParams,
    DriftParams,
    ResampleParams,
    TrainShared,
    PodParams,
    RunParams,
    EvaluateParams,
    PromoteShared,
    ReportParams,
):
    """All params of a run."""

    preset: Literal["demo", "quick", "original"] = _param(
        "original",
        "Data",
        "Sets the params that aren't given: demo and quick fit a laptop, original is for a GPU.",
    )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The run's params: what is given, else the preset's, else the default.

        Raises:
            ParamsError: as `Section.of`, and where values contradict one another.
        """
        preset = given.get("preset", cls.model_fields["preset"].default)
        params = super().of({**PRESETS.get(str(preset), {}), **given})
        if params.min_per_class > params.max_per_class:
            raise ParamsError(
                f"min_per_class = {params.min_per_class} is more than max_per_class = {params.max_per_class}."
            )
        if params.folds == 1:
            raise ParamsError("folds = 1: a cross-validation has at least 2 folds; 0 means none.")
        if params.unsure_threshold > params.photo_threshold:
            raise ParamsError(
                f"unsure_threshold = {params.unsure_threshold} is more than photo_threshold = {params.photo_threshold}."
            )
        return params

    def section(self, kind: type[SectionType], **instance: Any) -> SectionType:
        """The part of the params that a step reads; `instance` sets what differs between its mapped tasks."""
        shared = {name: getattr(self, name) for name in kind.model_fields if name in type(self).model_fields}
        return kind.of(shared | instance)
