"""include/helm: that its values have the chart's names and types, and agree with the rest of the project.

What SCHEMA says of the options used here was read in the chart's own schema and documentation; it is no copy of them.
"""

from typing import Any

import jsonschema
import yaml

from include.pods import PodSettings
from tasks.core.settings import Settings
from tests.conftest import ROOT

FOLDER = ROOT / "include" / "helm"

NAME = {"type": "string", "minLength": 1}


def closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


#: `env` takes names and strings alone; `secret` a name and where to read it.
ENV = closed(name=NAME, value={"type": "string"}) | {"required": ["name", "value"]}
SECRET = closed(envName=NAME, secretName=NAME, secretKey=NAME) | {"required": ["envName", "secretName"]}
ACCOUNT = closed(name=NAME, annotations={"type": "object", "additionalProperties": {"type": "string"}})
SCHEMA = closed(
    executor={"enum": ["LocalExecutor", "CeleryExecutor", "KubernetesExecutor", "CeleryExecutor,KubernetesExecutor"]},
    airflowVersion=NAME,
    images=closed(airflow=closed(repository=NAME, tag=NAME)),
    env={"type": "array", "items": ENV},
    secret={"type": "array", "items": SECRET},
    data=closed(metadataSecretName=NAME),
    fernetKeySecretName=NAME,
    apiSecretKeySecretName=NAME,
    jwtSecretName=NAME,
    postgresql=closed(enabled={"type": "boolean"}),
    config={"type": "object", "additionalProperties": {"type": "object", "additionalProperties": {"type": "string"}}},
    createUserJob=closed(defaultUser=closed(enabled={"type": "boolean"})),
    apiServer=closed(args={"type": "array", "items": {"type": "string"}}, serviceAccount=ACCOUNT),
    dagProcessor=closed(serviceAccount=ACCOUNT),
    workers=closed(
        replicas={"type": "integer"},
        serviceAccount=ACCOUNT,
        resources={"type": "object"},
        persistence=closed(size=NAME),
        extraVolumes={"type": "array"},
        extraVolumeMounts={"type": "array"},
    ),
    triggerer=closed(serviceAccount=ACCOUNT),
)


def values() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text())
    return read


def test_names_and_types_are_the_charts() -> None:
    jsonschema.validate(values(), SCHEMA)


def test_settings_are_settings() -> None:
    known = {f"GESSO_{name.upper()}" for name in Settings.model_fields}
    known |= {f"GESSO_POD_{name.upper()}" for name in PodSettings.model_fields}
    given = {entry["name"] for entry in values()["env"] if entry["name"].startswith("GESSO_")}
    assert given <= known


def test_the_options_that_go_into_airflow_cfg_are_airflows() -> None:
    from airflow.configuration import conf

    for section, options in values()["config"].items():
        for option in options:
            assert option in conf.configuration_description[section]["options"], f"[{section}] {option}"


def test_who_starts_and_watches_pods_may() -> None:
    binding = yaml.safe_load((FOLDER / "launcher.yaml").read_text())
    bound = {subject["name"] for subject in binding["subjects"]}
    assert bound == {values()[part]["serviceAccount"]["name"] for part in ("workers", "triggerer")}
    roles = list(yaml.safe_load_all((ROOT / "include" / "kubernetes" / "access.yaml").read_text()))
    assert binding["roleRef"]["name"] in [role["metadata"]["name"] for role in roles if role["kind"] == "Role"]
