"""Addresses of Gesso's pages in the Airflow UI (`include/pages`), for links from elsewhere."""

from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from airflow.configuration import conf

#: Where Airflow mounts the pages.
MOUNT = "/gesso"


def base_url() -> str:
    """Airflow's own address, as its users see it."""
    return str(conf.get("api", "base_url", fallback="") or "").rstrip("/")


def page(dag_id: str, *rest: str, **query: Any) -> str:
    """The path of a page, each part of it quoted: page("retrain", run_id, "report")."""
    path = "/".join(quote(part, safe="") for part in (dag_id, *rest))
    asked = urlencode(query, doseq=True)
    return f"{prefix()}/{path}{'?' * bool(asked)}{asked}"


def prefix() -> str:
    """The path that all pages begin with."""
    return urlsplit(base_url()).path + MOUNT


def report_url(dag_id: str, run_id: str) -> str:
    """The address of a run's report: the tab in the Airflow UI, written as the UI does, which else marks no tab."""
    return f"{base_url()}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe=':+')}/plugin/report"
