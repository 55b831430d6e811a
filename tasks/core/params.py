"""A run's params: one flat model, made of the sections that the steps read.

A step sees its own section and nothing else, so an artifact's key holds exactly the params that shaped it, and a
changed param makes only what depends on it anew.

    Params.of({"preset": "quick", "epochs": 3})     # a given value wins over the preset's
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tasks.core import search
from tasks.core.errors import ParamsError

# fmt: off
Architecture = Literal[
    "baseline", "vgg", "residual",
    # those of keras.applications, listed so that a misspelt one is found where it is typed
    "keras:ConvNeXtBase", "keras:ConvNeXtLarge", "keras:ConvNeXtSmall", "keras:ConvNeXtTiny", "keras:ConvNeXtXLarge",
    "keras:DenseNet121", "keras:DenseNet169", "keras:DenseNet201",
    "keras:EfficientNetB0", "keras:EfficientNetB1", "keras:EfficientNetB2", "keras:EfficientNetB3",
    "keras:EfficientNetB4", "keras:EfficientNetB5", "keras:EfficientNetB6", "keras:EfficientNetB7",
    "keras:EfficientNetV2B0", "keras:EfficientNetV2B1", "keras:EfficientNetV2B2", "keras:EfficientNetV2B3",
    "keras:EfficientNetV2L", "keras:EfficientNetV2M", "keras:EfficientNetV2S",
    "keras:InceptionResNetV2", "keras:InceptionV3",
    "keras:MobileNet", "keras:MobileNetV2", "keras:MobileNetV3Large", "keras:MobileNetV3Small",
    "keras:NASNetLarge", "keras:NASNetMobile",
    "keras:ResNet101", "keras:ResNet101V2", "keras:ResNet152", "keras:ResNet152V2", "keras:ResNet50",
    "keras:ResNet50V2", "keras:VGG16", "keras:VGG19", "keras:Xception",
]
# fmt: on


def _in_utc(value: datetime) -> datetime:
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError("In UTC it is not in the years 1 to 9999") from None


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
    said = error["msg"].removeprefix("Value error, ")
    return f"{name} = {error['input']!r}: {said}." if name else f"{said}."


def _param(
    default: Any,
    section: str,
    text: str,
    *,
    observed: bool = False,
    names: Mapping[str, str] | None = None,
    read: Mapping[str, str] | None = None,
    **limits: Any,
) -> Any:
    """A param of the trigger form.

    Args:
        default: what counts where neither the run nor its preset says otherwise.
        section: where the form has it.
        text: what it does.
        observed: its step looks at what it names, and puts that into the key instead.
        names: what the form calls the values of a choice.
        read: where to read more: the words of each link, and its address.
        limits: what is allowed, and the title, as pydantic's Field has them.
    """
    extra: dict[str, Any] = {
        "section": section,
        "observed": observed,
        "names": dict(names or {}),
        "read": dict(read or {}),
    }
    return Field(default, description=text, json_schema_extra=extra, **limits)


SGD = {"SGD in Keras": "https://keras.io/api/optimizers/sgd/"}
F1 = {"F1 in scikit-learn": "https://scikit-learn.org/stable/modules/generated/sklearn.metrics.f1_score.html"}
GPUS = {"GPUs in Kubernetes": "https://kubernetes.io/docs/tasks/manage-gpus/scheduling-gpus/"}


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
        title="Data set",
    )
    as_of: Instant | None = _param(
        None,
        "Data",
        "The data set as it was at this instant. Empty: the end of the data interval, or now.",
        observed=True,
        title="Data as of",
        read={"versions of a bucket": "https://docs.aws.amazon.com/AmazonS3/latest/userguide/Versioning.html"},
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


class Sharded(Section):
    """Which part of the work a mapped task does."""

    shard: int = Field(0, ge=0, description="Which shard of the images.")
    shards: int = Field(1, ge=1, description="Into how many shards the images are divided.")


class ScanParams(ScanShared, Sharded):
    """One shard of a scan."""


class ValidateParams(Section):
    expectations: str = _param(
        "",
        "Cleaning",
        "YAML file with the data's expectations. Empty: the built-in ones.",
        observed=True,
        read={"expectations that there are": "https://greatexpectations.io/expectations/"},
    )
    near_duplicate_bits: int = _param(
        4,
        "Cleaning",
        "Pictures whose perceptual hashes differ in at most this many of 64 bits share a part of the split.",
        ge=0,
        le=16,
        read={"perceptual hashes": "https://en.wikipedia.org/wiki/Perceptual_hashing"},
    )


class EdaParams(Section):
    """The exploration has no params of its own: it shows the data as they came."""


class ClusterParams(Section):
    separate: bool = _param(
        True,
        "Cleaning",
        "Tell photographs from illustrations.",
        title="Separate photographs",
        read={"Ward clustering": "https://scikit-learn.org/stable/modules/clustering.html#hierarchical-clustering"},
    )
    photo_threshold: float = _param(
        0.8, "Cleaning", "From this probability on an image is a photograph and left out.", gt=0.5, le=1
    )
    unsure_threshold: float = _param(
        0.5,
        "Cleaning",
        "From this probability on an image is unsure: kept, and shown for review. So is, in a class in which no "
        "photographs are found, one that looks like a photograph all the same.",
        ge=0,
        le=1,
    )
    contaminated: list[str] = _param(
        [], "Cleaning", "Classes that may hold photographs; the others keep every image. Empty: any class may."
    )
    review: str = _param(
        "",
        "Cleaning",
        "CSV file with columns key and verdict; it overrules the clustering. Empty: review.csv beside the data set, if "
        "there is one. none: no file.",
        observed=True,
    )


class DriftParams(Section):
    drift_threshold: float = _param(
        0.2,
        "Evaluation",
        "The report warns where the data moved further since the champion's: share of the images, or of their spread.",
        gt=0,
    )


class ResampleParams(Seeded):
    drop_photos: bool = _param(
        True, "Cleaning", "Leave photographs out of training and evaluation.", title="Drop photographs"
    )
    min_per_class: int = _param(250, "Balancing", "Oversample a smaller class to this many training images.", ge=1)
    max_per_class: int = _param(1000, "Balancing", "Undersample a larger class to this many training images.", ge=1)
    validation_share: float = _param(0.1, "Balancing", "Share of each class that validates.", ge=0.01, le=0.45)
    test_share: float = _param(0.1, "Balancing", "Share of each class that tests.", ge=0.01, le=0.45)


class PackParams(Sized, Sharded):
    """One shard of a pack."""


class Lasting(Section):
    epochs: int = _param(60, "Training", "Passes over the training part, at most.", ge=1, le=1000)


Bottleneck = Literal["output", "inner"]
BOTTLENECK = _param(
    "output",
    "Training",
    "What residual's 64 to 512 are the width of: its blocks' output (1.3 M parameters) or their inside (20 M).",
)


class TrainShared(Seeded, Sized, Lasting):
    """What all trainings of a run share."""

    batch_size: int = _param(64, "Training", "Images a step.", ge=1, le=4096)
    optimizer: Literal["sgd", "adamw"] = _param("sgd", "Training", "SGD, or AdamW, which wants a tenth of the rate.")
    learning_rate: float = _param(
        0.01, "Training", "The optimizer's learning rate at the start.", gt=0, le=10, read=SGD
    )
    momentum: float = _param(0.0, "Training", "SGD's momentum.", ge=0, lt=1, read=SGD)
    weight_decay: float = _param(0.01, "Training", "AdamW's weight decay.", ge=0, le=1)
    schedule: Literal["plateau", "cosine"] = _param(
        "plateau",
        "Training",
        "plateau halves the learning rate where validation stands still; cosine lowers it to nothing over all epochs.",
    )
    warmup_epochs: int = _param(0, "Training", "Epochs in which cosine raises the learning rate from nothing.", ge=0)
    plateau_patience: int = _param(
        5,
        "Training",
        "Epochs without a better validation loss before the learning rate is halved.",
        ge=1,
        read={"ReduceLROnPlateau in Keras": "https://keras.io/api/callbacks/reduce_lr_on_plateau/"},
    )
    stop_patience: int = _param(
        10,
        "Training",
        "Epochs without a better validation loss before training stops.",
        ge=1,
        read={"EarlyStopping in Keras": "https://keras.io/api/callbacks/early_stopping/"},
    )
    class_weights: bool = _param(True, "Training", "Let small classes weigh more in the loss.")
    augment: bool = _param(True, "Training", "Flip, shift, rotate and zoom the training images at random.")
    label_smoothing: float = _param(0.0, "Training", "Share of each target that all classes get alike.", ge=0, lt=1)
    mixup: float = _param(
        0.0, "Training", "Alpha of mixup, which mixes pairs of images and their targets; 0: no mixup.", ge=0, le=10
    )
    bottleneck: Bottleneck = BOTTLENECK
    weights: str = _param(
        "",
        "Training",
        "file:// or s3:// URI of weights that a keras:<Name> network starts from; {name} in it stands for <Name>. "
        "Empty: it starts from scratch. Other weights want another URI: a training is known by it.",
    )
    freeze_epochs: int = _param(
        0, "Training", "Epochs in which only the head of a keras:<Name> network is trained, at most.", ge=0, le=1000
    )
    unfrozen_rate: float = _param(
        0.1, "Training", "What the learning rate is multiplied by once all of it is trained.", gt=0, le=1
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = _param(
        "auto", "Advanced", "What activations are computed in. auto: what the GPU is fastest with; float32 on a CPU."
    )
    xla: Literal["auto", "on", "off"] = _param(
        "auto", "Advanced", "Whether XLA compiles the training step. auto: on a GPU; on a CPU it is slower."
    )
    steps_per_execution: int = _param(
        0, "Advanced", "Steps that go to the device at a time. 0: 16 on a GPU, 1 on a CPU.", ge=0, le=1000
    )


class TrainParams(TrainShared):
    architecture: Architecture = Field("residual", description="The network to train.")
    fold: int = Field(0, ge=0, le=20, description="Which fold of a cross-validation this trains; 0: none of them.")
    of_folds: int = Field(0, ge=0, le=20, description="Into how many folds the cross-validation divides the images.")

    def for_key(self) -> dict[str, Any]:
        """As for any section, without what this training doesn't look at: it would be trained twice for nothing."""
        unread = set() if self.architecture == "residual" else {"bottleneck"}
        if not self.architecture.startswith("keras:"):
            unread |= {"weights", "freeze_epochs"}
        if "freeze_epochs" in unread or not self.freeze_epochs:
            unread.add("unfrozen_rate")
        return {name: value for name, value in super().for_key().items() if name not in unread}


class PodParams(Section):
    """What a run asks of the cluster that it trains in. It doesn't shape the model, so it is in no artifact's key."""

    gpus: int = _param(
        1, "Training", "GPUs of a training pod; 0: it trains on CPUs.", ge=0, le=16, title="GPUs", read=GPUS
    )
    gpu_type: str = _param(
        "",
        "Training",
        "Type of GPU, as the nodes' label has it. Empty: any.",
        pattern=r"^[\w.-]*$",
        title="Type of GPU",
        read=GPUS,
    )


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
    promote_in_backfill: bool = _param(
        False, "Promotion", "Let a backfill's models become the champion, too. They judge the past, so as a rule not."
    )
    require_approval: bool = _param(False, "Promotion", "Ask a person before the model is promoted.")
    approval_hours: float = _param(24.0, "Promotion", "How long to wait for the answer.", gt=0, le=24 * 14)
    approval_default: Literal["hold", "approve"] = _param(
        "hold",
        "Promotion",
        "What counts where nobody answers in time.",
        names={"hold": "Hold: the champion stays", "approve": "Approve: the new model is promoted"},
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
    min_macro_f1: float = _param(
        0.5, "Promotion", "A model below this macro F1 is never promoted.", ge=0, le=1, title="Min macro F1", read=F1
    )
    max_class_drop: float = _param(
        0.05,
        "Promotion",
        "No class may lose more F1 than this against the champion; what a single test image can make never counts.",
        ge=0,
        le=1,
    )


class PromoteParams(PromoteShared):
    approval: Answer | None = Field(None, description="What was answered, where the run wants an approval.")


SEARCHED = {
    name: field.annotation
    for name, field in TrainShared.model_fields.items()
    if name not in {*Seeded.model_fields, *Sized.model_fields, "weights", "precision", "xla", "steps_per_execution"}
}
"""The params that may be searched, and their types: those that shape a training, on the same images and device."""


def _searchable(space: dict[str, Any]) -> dict[str, Any]:
    """A space with each listed value as the training takes it: 5 for "5"."""
    return search.checked(space, SEARCHED, _as_taken)


def _as_taken(name: str, value: Any) -> Any:
    taken = getattr(TrainShared.of({name: value}), name)
    return value if value == taken else taken  # 0 stays 0, not 0.0: the report's key holds it as it was given


def _each_once(values: list[str]) -> list[str]:
    if twice := search.repeated(values):
        raise ValueError(f"It names {twice[0]!r} twice")
    return values


class ReportParams(Sized, Lasting):
    """What is to be trained: the report of a dry run says what that would cost."""

    architectures: Annotated[list[Architecture], AfterValidator(_each_once)] = _param(
        ["residual"],
        "Training",
        "Networks to train; the best by validation goes on.",
        names={
            "baseline": "Baseline: three convolutions, for a CPU",
            "vgg": "VGG: the body of VGG-16",
            "residual": "Residual: bottleneck blocks with shortcuts",
        }
        | {name: f"{name.removeprefix('keras:')}, of keras.applications" for name in get_args(Architecture)[3:]},
        read={"VGG": "https://arxiv.org/abs/1409.1556", "residual networks": "https://arxiv.org/abs/1512.03385"},
        min_length=1,
    )
    bottleneck: Bottleneck = BOTTLENECK
    folds: int = _param(
        0,
        "Evaluation",
        "Cross-validate each architecture in this many folds beside its training; 0: don't.",
        ge=0,
        le=20,
        read={"cross-validation": "https://scikit-learn.org/stable/modules/cross_validation.html"},
    )
    search: Annotated[dict[str, Any], AfterValidator(_searchable)] = _param(
        {},
        "Training",
        'Params of the training to search, each with a list of values or a range: {"learning_rate": {"low": 0.001, '
        '"high": 0.1}, "optimizer": ["sgd", "adamw"]}. Empty: no search.',
        read={"hyper-parameters": "https://scikit-learn.org/stable/modules/grid_search.html"},
    )
    trials: int = _param(
        8,
        "Training",
        "Trainings of each architecture in a search, the first with the run's own params; the best by validation goes "
        "on.",
        ge=2,
        le=100,
    )
    hour_price: float = _param(
        0.0, "Training", "Price of an hour on the machine that trains, in your currency. 0: not known.", ge=0
    )


MOST_TRAININGS = 1000
"""More mapped tasks than about this Airflow refuses (its `max_map_length`)."""

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
    ReportParams,
    TrainShared,
    PodParams,
    EvaluateParams,
    PromoteShared,
    RunParams,
):
    """All params of a run."""

    preset: Literal["demo", "quick", "original"] = _param(
        "original",
        "Data",
        "Sets the params that aren't given: demo and quick fit a laptop, original is for a GPU.",
        names={
            "demo": "Demo: a small network on small pictures, minutes on a laptop",
            "quick": "Quick: a small network on a CPU",
            "original": "Original: the three networks of the 2022 work, for a GPU",
        },
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
        if params.schedule == "cosine" and params.warmup_epochs >= params.epochs:
            raise ParamsError(f"warmup_epochs = {params.warmup_epochs} leaves none of epochs = {params.epochs}.")
        if (params.weights or params.freeze_epochs) and not any("keras:" in name for name in params.architectures):
            raise ParamsError(
                f"weights and freeze_epochs are for networks keras:<Name>, and architectures = {params.architectures} "
                f"holds none: the original's networks start from scratch."
            )
        if params.folds == 1:
            raise ParamsError("folds = 1: a cross-validation has at least 2 folds; 0 means none.")
        if params.unsure_threshold > params.photo_threshold:
            raise ParamsError(
                f"unsure_threshold = {params.unsure_threshold} is more than photo_threshold = {params.photo_threshold}."
            )
        if params.search:
            params.check_search()
        return params

    def check_search(self) -> None:
        """Check what is to be searched against the other params.

        Raises:
            ParamsError: values that contradict one another, too many trainings, or a cross-validation besides.
        """
        if self.folds:
            raise ParamsError(
                f"search and folds = {self.folds} together would train each trial {self.folds + 1} times. Search "
                f"first, then cross-validate with the values of the best trial."
            )
        if len(self.architectures) * self.trials > MOST_TRAININGS:
            raise ParamsError(
                f"{len(self.architectures)} architectures with trials = {self.trials} each are more than "
                f"{MOST_TRAININGS:,} trainings."
            )
        given = {name: search.ends(self.search.get(name, [getattr(self, name)])) for name in SEARCHED}
        if "cosine" in given["schedule"] and max(given["warmup_epochs"]) >= min(given["epochs"]):
            raise ParamsError(
                f"search: a trial could have warmup_epochs = {max(given['warmup_epochs'])} of "
                f"epochs = {min(given['epochs'])}, which leaves none for the rest of the schedule."
            )
        if "freeze_epochs" in self.search and not any("keras:" in name for name in self.architectures):
            raise ParamsError(
                f"search: freeze_epochs is for networks keras:<Name>, and architectures = {self.architectures} holds "
                f"none."
            )
        given["architectures"] = self.architectures
        for name in self.search:
            other, wanted = search.ONLY_WITH.get(name, ("", ""))
            if other and wanted not in given[other]:
                raise ParamsError(
                    f"search: {name} does nothing without {wanted} as {other}, and here it is "
                    f"{', '.join(given[other])}: each trial would be the same."
                )
        if "unfrozen_rate" in self.search and not any(given["freeze_epochs"]):
            raise ParamsError(
                "search: unfrozen_rate does nothing where freeze_epochs = 0: each trial would be the same."
            )

    def trainings(self) -> list[dict[str, Any]]:
        """What sets each training of the run apart: the architecture, its trials' values, the fold.

        Each architecture is trained with the run's own params, then once for each other trial of a search, or for each
        fold of a cross-validation. A trial is left out whose values differ in nothing that the architecture looks at.
        """
        others: list[dict[str, Any]] = [{"fold": fold, "of_folds": self.folds} for fold in range(1, self.folds + 1)]
        if self.search:
            others = search.draw(self.search, self.trials, self.seed, self.model_dump())
        whole = [{"architecture": architecture} for architecture in self.architectures]
        found, keys = [], set()
        for training in whole + [training | other for training in whole for other in others]:
            key = str(self.section(TrainParams, **training).for_key())
            if key not in keys:
                keys.add(key)
                found.append(training)
        return found

    def section(self, kind: type[SectionType], **instance: Any) -> SectionType:
        """The part of the params that a step reads; `instance` sets what differs between its mapped tasks."""
        shared = {name: getattr(self, name) for name in kind.model_fields if name in type(self).model_fields}
        return kind.of(shared | instance)
