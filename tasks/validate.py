"""Check the data set against its contract, find duplicates, and set aside what can't be used.

Every image gets a verdict: kept; quarantined (it can't be read); duplicate (the same bytes as another image of its
class); conflict (the same bytes as an image of another class: one of the two labels is wrong, so neither is used).
Images that only look alike are kept and share a duplicate group, which later keeps them in the same part of the split.
Nothing is deleted. The contract is `expectations/images.yaml` or the file that the param `expectations` names; a failed
error stops the run after all of this is written, a failed warning is a finding.

Writes:
    images.parquet       the scan's columns and exact_group, duplicate_group, duplicates (size of that group), verdict,
                         reason; groups are -1 for an image that can't be read
    duplicates.parquet   key, class, duplicate_group, kind (exact, near): images that are not alone in their group
    quarantine.csv       key, class, verdict, reason: every image that is not kept
    findings.json        [{expectation, severity, success, observed, allowed, message}]
    validation.json      Great Expectations' results
    data_docs/index.html the same to read, in one page that loads nothing
    expectations.yaml    the contract that was checked
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks import contract
from tasks.core import params
from tasks.core.artifacts import Inputs, Output
from tasks.core.errors import DataError, NotFound, ParamsError
from tasks.core.ledger import write_csv
from tasks.core.store import open_store
from tasks.vision.duplicates import (
    SIZEABLE_ANYWHERE,
    SIZEABLE_CLASS_SHARE,
    SIZEABLE_IMAGES,
    Duplicates,
    find_duplicates,
)

INPUTS = ("scan*",)
Params = params.ValidateParams
RESOURCES = ("templates/data_docs.html",)

BUILT_IN = Path(__file__).parent / "expectations" / "images.yaml"

#: What the contract can see of an image; of one that can't be read only the first are known.
ALWAYS = ("key", "class", "status", "verdict", "reason", "note", "bytes")
READABLE = (
    "format", "mode", "width", "height", "frames", "has_alpha", "brightness", "sharpness", "duplicates",
)  # fmt: skip


def observe(
    inputs: Inputs, params: Params, out: Output
) -> tuple[dict[str, str], tuple[bytes, list[contract.Expectation]]]:
    """Read the contract; the digest of its file goes into the artifact's key.

    Raises:
        ParamsError: there is no such file, or it can't be used.
    """
    uri = params.expectations or str(BUILT_IN)
    folder, slash, name = uri.rpartition("/")
    try:
        data = open_store(folder or slash or ".").get(name)
    except NotFound as error:
        raise ParamsError(f"expectations = {uri!r} can't be read. {error}") from None
    return {"expectations": hashlib.sha256(data).hexdigest()}, (data, contract.parse_suite(data, name))


def run(inputs: Inputs, params: Params, out: Output) -> None:
    """Merge the scan's shards, find duplicates and check the contract.

    Raises:
        DataError: an expectation of severity "error" is not met; names each, what was seen and what is allowed.
        ParamsError: an expectation can't be checked.
    """
    contract_file, suite = out.observed
    out.path("expectations.yaml").write_bytes(contract_file)
    where = params.expectations or f"the built-in {BUILT_IN.name}"
    scans = [shard.table("scan.parquet") for shard in inputs.many("scan")]
    images = pd.concat(scans, ignore_index=True).sort_values("key", ignore_index=True)
    duplicates = find_duplicates(
        images["sha256"].where(images["status"] == "ok", "").tolist(),
        images["phash"].tolist(),
        params.near_duplicate_bits,
        images["class"].tolist(),
    )
    images = with_verdicts(images, duplicates)
    out.table("images.parquet", images)
    out.table("duplicates.parquet", duplicate_table(images))
    left_out = images.loc[images["verdict"] != "kept", ["key", "class", "verdict", "reason"]]
    write_csv(left_out, out.path("quarantine.csv"))

    tables = contract_tables(images)
    results = contract.check(suite, tables, where)
    findings = [contract.finding(entry, result, tables) for entry, result in zip(suite, results, strict=True)]
    if duplicates.dissolved:
        findings.append(_chains(duplicates.dissolved))
    out.json("findings.json", findings)
    out.json("validation.json", results)
    out.text("data_docs/index.html", contract.data_docs(suite, results, findings))

    failed = [each for each in findings if not each["success"]]
    verdicts = images["verdict"].value_counts()
    out.metrics |= {
        "images": len(images),
        "kept": int(verdicts.get("kept", 0)),
        "quarantined": int(verdicts.get("quarantined", 0)),
        "duplicates": int(verdicts.get("duplicate", 0)),
        "conflicts": int(verdicts.get("conflict", 0)),
        "dissolved": sum(duplicates.dissolved),
        "warnings": sum(each["severity"] == "warning" for each in failed),
    }
    for each in failed:
        out.log(f"validate: {each['severity']}: {each['message']}")
    if errors := [each for each in failed if each["severity"] == "error"]:
        listed = " ".join(
            f"({number}) {each['message']} [{each['expectation']}]" for number, each in enumerate(errors, 1)
        )
        raise DataError(
            f"The data set fails {len(errors)} of {len(suite)} expectations. {listed} Mend the data, or change what is "
            f"expected in {where}."
        )


def with_verdicts(images: pd.DataFrame, duplicates: Duplicates) -> pd.DataFrame:
    """The images, sorted by key, with their groups, verdicts and reasons."""
    images = images.assign(exact_group=duplicates.exact, duplicate_group=duplicates.group)
    readable = images["duplicate_group"] >= 0
    sizes = images.loc[readable, "duplicate_group"].map(images["duplicate_group"].value_counts())
    images["duplicates"] = sizes.reindex(images.index, fill_value=0).astype(np.int32)
    images["verdict"], images["reason"] = "kept", ""
    unreadable = ~readable
    images.loc[unreadable, "verdict"] = "quarantined"
    images.loc[unreadable, "reason"] = images.loc[unreadable, "error"]

    twice = images[readable & images.duplicated("exact_group", keep=False)]
    first = twice.drop_duplicates(["exact_group", "class"])  # the first key of each class
    place, group = first.groupby("exact_group").cumcount(), twice["exact_group"]
    one, two = (first[place == at].set_index("exact_group") for at in (0, 1))
    other = group.map(one["key"]).mask(twice["class"] == group.map(one["class"]), group.map(two["key"])).astype("str")
    conflict = group.isin(two.index)
    images.loc[conflict.index[conflict], "verdict"] = "conflict"
    images.loc[conflict.index[conflict], "reason"] = "same bytes as " + other[conflict] + ", in another class"
    later = ~conflict & group.duplicated()
    images.loc[later.index[later], "verdict"] = "duplicate"
    images.loc[later.index[later], "reason"] = "same bytes as " + group.map(one["key"]).astype("str")[later]
    return images.astype({"verdict": "str", "reason": "str"})


def duplicate_table(images: pd.DataFrame) -> pd.DataFrame:
    """Images that share their duplicate group: exact where another has the same bytes, else near."""
    grouped = images[images["duplicates"] > 1]
    same = grouped.duplicated("exact_group", keep=False)
    table = grouped[["key", "class", "duplicate_group"]].assign(kind=np.where(same, "exact", "near"))
    return table.astype({"kind": "str"}).reset_index(drop=True)


def contract_tables(images: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The three tables that expectations can be about; `expectations/images.yaml` explains their columns."""
    readable, verdict = images["status"] == "ok", images["verdict"]
    seen = images[list(READABLE)].where(readable)  # unknown, and so not held against an unreadable image
    seen["megapixels"] = seen["width"] * seen["height"] / 1e6
    seen["aspect"] = seen["width"] / seen["height"]
    flags = pd.DataFrame(
        {
            "class": images["class"],
            "images": True,
            "readable": readable,
            "unreadable": ~readable,
            "duplicates": verdict == "duplicate",
            "conflicts": verdict == "conflict",
            "usable": verdict == "kept",
        }
    )
    classes = flags.groupby("class", sort=True).sum().reset_index()
    usable = classes.loc[classes["usable"] > 0, "usable"]
    group_classes = images[verdict == "kept"].groupby("duplicate_group")["class"].nunique()
    total = max(1, len(images))
    dataset = {
        "images": len(images),
        "classes": len(usable),
        "readable": int(readable.sum()),
        "usable": int(usable.sum()),
        "readable_share": float(readable.sum() / total),
        "duplicate_share": float((verdict == "duplicate").sum() / total),
        "conflict_share": float((verdict == "conflict").sum() / total),
        "mixed_groups": int((group_classes > 1).sum()),
        "smallest": int(usable.min()) if len(usable) else 0,
        "largest": int(usable.max()) if len(usable) else 0,
        "imbalance": float(usable.max() / usable.min()) if len(usable) else None,
    }
    return {
        "images": pd.concat([images[list(ALWAYS)], seen], axis=1),
        "classes": classes,
        "dataset": pd.DataFrame([dataset]),
    }


def _chains(sizes: list[int]) -> dict[str, Any]:
    shown = ", ".join(f"{size:,}" for size in sizes[:5])
    allowed = f"at most {SIZEABLE_IMAGES} images, or {SIZEABLE_CLASS_SHARE:.0%} of a class, up to {SIZEABLE_ANYWHERE:,}"
    return {
        "expectation": "size of near-duplicate groups",
        "severity": "warning",
        "success": False,
        "observed": f"groups of {shown} images",
        "allowed": allowed,
        "message": (
            f"Chains of pictures that look alike grew to groups of {shown} images; allowed: {allowed}. Only exact "
            f"duplicates are grouped there. Lower near_duplicate_bits, or look whether the same pictures are there "
            f"again and again."
        ),
    }
