"""Where Gesso runs: the deployment's settings, from environment variables named GESSO_….

A setting belongs to a machine or a cluster (where artifacts go, how many workers); a param belongs to a run
(which data, how many epochs) and is in `params.py`. Settings never change what a step computes.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.core.errors import ParamsError

Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseModel):
    """The settings, each `GESSO_<NAME>`."""

    model_config = ConfigDict(frozen=True)

    home: Path = Field(Path(".gesso"), description="Folder for all that Gesso keeps on this machine.")
    store: str = Field("", description="Where artifacts go: a folder or s3://bucket/prefix. Default: HOME/store.")
    dataset: str = Field("", description="The data set of a run that names none. Default: HOME/demo.")
    params: dict[str, Any] = Field(
        {},
        description="Defaults for the params of every run, as JSON; what a run gives wins.",
    )
    scratch: Path | None = Field(None, description="Folder for unfinished work. Default: HOME/scratch.")
    workers: int = Field(0, ge=0, description="Threads a step may use. 0: one per core.")
    shard_images: int = Field(
        100_000,
        ge=100,
        description="Images a scan task takes on; a larger snapshot is scanned by several tasks.",
    )
    train_on: Literal["local", "kubernetes"] = Field(
        "local", description="Where training runs: in a process beside the worker, or in pods (`include/pods.py`)."
    )
    checkpoint_seconds: float = Field(
        60, ge=0, description="Training keeps its state in the store at the end of an epoch, at most this often."
    )
    attended: bool = Field(
        True, description="Whether somebody can answer in Airflow's UI; if not, a question's default counts at once."
    )
    retries: int = Field(
        2, ge=0, description="How often Airflow tries a step again that failed for no fault of the data."
    )
    retry_seconds: float = Field(
        30, ge=0, description="How long Airflow waits before the first retry; then twice as long each time."
    )
    deadline_hours: float = Field(
        0, ge=0, description="A run that has not ended after so long is told of as late. 0: it is not."
    )
    mail_to: str = Field("", description="Whom Airflow's connection smtp_default writes to; commas between them.")
    watch_seconds: float = Field(
        300, gt=0, description="How often `watch_new_images` lists the data set: on S3 a request for 1,000 keys."
    )
    port: int = Field(8080, ge=1, le=65535, description="Port of the Airflow UI that `make up` starts.")
    schedule: str = Field("@weekly", description="Cron expression or preset of the scheduled retraining.")

    @property
    def store_uri(self) -> str:
        """Where artifacts go."""
        return self.store or str(self.home.absolute() / "store")

    @property
    def dataset_uri(self) -> str:
        """The data set of a run that names none."""
        return self.dataset or str(self.home.absolute() / "demo")

    @property
    def scratch_folder(self) -> Path:
        """Where unfinished work and copies of remote artifacts are kept; may be emptied at any time."""
        return (self.scratch or self.home / "scratch").absolute()

    @property
    def threads(self) -> int:
        """How many threads a step may use."""
        return self.workers or len(os.sched_getaffinity(0))


@cache
def settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        ParamsError: a GESSO_… variable has a value that can't be used.
    """
    return from_environment(Settings, "GESSO_")


def from_environment(model: type[Model], prefix: str) -> Model:
    """The model with what the environment sets, each field as `<prefix><NAME>`; a dict is written as JSON.

    Raises:
        ParamsError: a variable has a value that can't be used.
    """
    given: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if value := os.environ.get(variable := prefix + name.upper()):
            given[name] = _read_json(variable, value) if get_origin(field.annotation) is dict else value
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong = "; ".join(f"{prefix}{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise ParamsError(f"The environment holds settings that can't be used. {wrong}") from None


def _read_json(variable: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise ParamsError(
            f"The environment holds settings that can't be used. {variable} is not JSON: {error}. "
            f'Example: {variable}=\'{{"name": "value"}}\'.'
        ) from None
