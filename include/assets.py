"""The data set and the model as Airflow's asset graph shows them, and each step's artifact for who collects lineage."""

from typing import Any
from urllib.parse import quote

from airflow.sdk import Asset, AssetAlias, AssetWatcher
from airflow.sdk.lineage import get_hook_lineage_collector

from include.defaults import default_params, named_dataset
from include.triggers import ImagesLanded
from tasks.core.artifacts import Artifact
from tasks.core.champion import champion_key, dataset_name
from tasks.core.settings import settings


def _uri(address: str) -> str:
    """A folder's or bucket's address as an asset's URI."""
    if address.startswith("/"):
        address = "file://" + address
    return quote(address, safe=":/")


#: What a run reads that names no data set.
DATASET = named_dataset() or settings().dataset_uri

#: That data set. An event says that images landed: {dataset, listing, images, landed}.
IMAGES = Asset(
    "images",
    uri=_uri(DATASET),
    watchers=[
        AssetWatcher(
            name="images landed",
            trigger=ImagesLanded(
                dataset=DATASET,
                seconds=settings().watch_seconds,
                min_images=default_params().min_new_images,
            ),
        )
    ],
)

#: The models in use. One gets an event where a run changed it: {model, export, dataset, snapshot, images, classes,
#: macro_f1}; `export` is the address of the SavedModel.
CHAMPION = AssetAlias("champion")


def champion_changed(context: Any, promote: Artifact, snapshot: Artifact) -> None:
    """Tell Airflow that a run's model is in use now for its data set."""
    dataset = str(snapshot.json("snapshot.json")["dataset"])
    candidate = promote.json("decision.json")["candidate"]
    export = promote.made_of("evaluate").key_of("export/saved_model.pb").rpartition("/")[0]
    pointer = Asset(f"champion {dataset_name(dataset)}", uri=_uri(f"{settings().store_uri}/{champion_key(dataset)}"))
    extra = {
        "model": f"{promote.store.uri}/{candidate['artifact']}",
        "export": f"{promote.store.uri}/{export}",
        "dataset": dataset,
        "snapshot": snapshot.uri,
        "images": snapshot.metrics["images"],
        "classes": snapshot.metrics["classes"],
        "macro_f1": candidate["macro_f1"],
    }
    context["outlet_events"][CHAMPION].add(pointer, extra=extra)
    get_hook_lineage_collector().add_output_asset(context["ti"], uri=pointer.uri)


def tell_lineage(context: Any, artifact: Artifact) -> None:
    """Tell Airflow what an artifact was made of, for a lineage backend such as OpenLineage's; others don't hear it."""
    collector, task = get_hook_lineage_collector(), context["ti"]
    if artifact.step == "snapshot":
        collector.add_input_asset(task, uri=_uri(str(artifact.json("snapshot.json")["dataset"])))
    for step, keys in artifact.inputs.items():
        for key in [keys] if isinstance(keys, str) else keys:
            collector.add_input_asset(task, uri=_uri(f"{artifact.store.uri}/artifacts/{step}/{key}"))
    collector.add_output_asset(task, uri=_uri(artifact.uri))
