"""Show the data set as it came, before anything is cleaned away or balanced.

Reads the validated table and the scan's thumbnails. Writes, for a person to look at,
  figures/<name>.svg with the table behind it in figures/<name>.parquet: counts, sizes, brightness, saturation,
      sharpness (see eda.json for what each shows)
  sheets/<nn>.jpg: pictures of a class, or groups of duplicates, one group a row; sheets.json says which is which:
      [{class, kind: "class" | "exact" | "near", file, images, groups: [[key, ...], ...]}]
  duplicate_groups.parquet [kind, group, images, classes, first]: every group of exact and of near duplicates
  quarantined.parquet [key, class, bytes, error]: what could not be read
  formats.parquet [format, mode, images]: what the readable files are, by their content
  eda.json {figures: [{name, title, caption}], per_class: [{class, images, kept, unreadable, duplicates, conflicts,
      width_median, height_median, brightness_median, saturation_median, sharpness_median}]}
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from tasks.core.artifacts import Artifact, Inputs, Output
from tasks.core.figures import COLOURS, INK, MUTED, SHEET_COLUMNS, contact_sheet, each_sheet, figure, label
from tasks.core.params import EdaParams
from tasks.thumbnails import thumbnails

INPUTS = ("validate", "scan*")
Params = EdaParams

#: Verdicts of `validate`, in the order in which the bars stack, with their colours.
VERDICTS = {"kept": COLOURS[0], "duplicate": COLOURS[5], "conflict": COLOURS[4], "quarantined": COLOURS[1]}

MEDIANS = ("width", "height", "brightness", "saturation", "sharpness")
SHEET_IMAGES = 40
ALL_SHEETS_IMAGES = 1200  # of many classes each shows fewer, so that a report with all sheets stays a few MB
GROUPS_SHOWN, GROUP_COLUMNS = 12, 8

FIGURES = [
    {
        "name": "counts",
        "title": "Images per class, before anything",
        "caption": "What the snapshot holds and what the checks set aside, largest class first.",
    },
    {
        "name": "sizes",
        "title": "Size and shape",
        "caption": "Left: each size that occurs, its dot as large as it is frequent; the line is a square. "
        "Right: width divided by height, on a logarithmic axis.",
    },
    {
        "name": "brightness",
        "title": "Brightness per class",
        "caption": "Box: the middle half of the images; whiskers: 5 to 95 percent; the grey line is the median of all. "
        "Illustrations on white paper are bright. A class far below the others, or with a much longer box, "
        "is where photographs hide.",
    },
    {
        "name": "saturation",
        "title": "Saturation per class",
        "caption": "Mean saturation (HLS) of an image. Line drawings are near 0, flat colours high.",
    },
    {
        "name": "sharpness",
        "title": "Sharpness per class",
        "caption": "Variance of the Laplacian, on a logarithmic axis. Low: blurred, empty or flat pictures.",
    },
]


def run(inputs: Inputs, params: EdaParams, out: Output) -> None:
    """Write figures, sheets and the tables behind them.

    Args:
        inputs: `validate` (images.parquet) and the shards of `scan` (thumbnails.parquet).
        params: none.
        out: where to write.
    """
    images = inputs.one("validate").table("images.parquet")
    readable = images.loc[images["status"] == "ok"]
    per_class = summary(images)

    draw_counts(per_class, out)
    draw_sizes(readable, out)
    draw_boxes(readable, "brightness", "mean brightness, 0 black to 255 white", out)
    draw_boxes(readable, "saturation", "mean saturation, 0 grey to 1", out)
    draw_boxes(readable, "sharpness", "variance of the Laplacian", out, log=True)
    out.log(f"Drew {len(FIGURES)} figures of {len(images)} images in {len(per_class)} classes.")

    groups = duplicate_groups(readable)
    out.table("duplicate_groups.parquet", groups)
    sheets = write_sheets(readable, groups, inputs.many("scan"), out)
    out.json("sheets.json", sheets)
    out.log(f"Wrote {len(sheets)} contact sheets.")

    lost = images.loc[images["status"] != "ok", ["key", "class", "bytes", "error"]]
    out.table("quarantined.parquet", lost.reset_index(drop=True))
    formats = readable.groupby(["format", "mode"]).size().rename("images").reset_index()
    out.table("formats.parquet", formats.sort_values(["images", "format", "mode"], ascending=[False, True, True]))
    out.json("eda.json", {"figures": FIGURES, "per_class": per_class.to_dict("records")})
    out.metrics |= {
        "images": len(images),
        "classes": len(per_class),
        "exact_groups": int((groups["kind"] == "exact").sum()),
        "near_groups": int((groups["kind"] == "near").sum()),
    }


def summary(images: pd.DataFrame) -> pd.DataFrame:
    """One row a class, largest first: counts by verdict, medians of its readable images (None where it has none)."""
    counts = pd.crosstab(images["class"], images["verdict"]).reindex(columns=list(VERDICTS), fill_value=0)
    medians = images.loc[images["status"] == "ok"].groupby("class")[list(MEDIANS)].median()
    table = pd.DataFrame(
        {
            "images": counts.sum(axis=1),
            "kept": counts["kept"],
            "unreadable": counts["quarantined"],
            "duplicates": counts["duplicate"],
            "conflicts": counts["conflict"],
        }
    ).join(medians.astype(float).round(4).add_suffix("_median"))
    table = table.rename_axis("class").reset_index().sort_values(["images", "class"], ascending=[False, True])
    return table.astype(object).where(table.notna(), None).reset_index(drop=True)


def draw_counts(per_class: pd.DataFrame, out: Output) -> None:
    """Stacked bars: how many images each class has, and what became of them."""
    table = per_class[["class", "images", "kept", "duplicates", "conflicts", "unreadable"]]
    out.table("figures/counts.parquet", table.infer_objects())
    with figure(out.path("figures/counts.svg"), 6.2, _height(len(table))) as axes:
        places, left = np.arange(len(table)), np.zeros(len(table))
        for verdict, column in zip(VERDICTS, ("kept", "duplicates", "conflicts", "unreadable"), strict=True):
            counts = table[column].to_numpy(float)
            if counts.any():
                axes.barh(places, counts, left=left, height=0.72, color=VERDICTS[verdict], label=verdict)
            left += counts
        for place, total in enumerate(table["images"]):
            axes.annotate(f"{total:,}", (total, place), (4, 0), textcoords="offset points", va="center", color=INK)
        _name_rows(axes, table["class"].tolist())
        axes.margins(x=0.1)
        axes.set_xlabel("images")
        axes.figure.legend(loc="outside upper left", ncols=len(VERDICTS))


def draw_sizes(readable: pd.DataFrame, out: Output) -> None:
    """Dots: each size that occurs, as large as it is frequent. Bars: the distribution of width / height."""
    from matplotlib.ticker import NullFormatter

    sizes = readable.groupby(["width", "height"]).size().rename("images").reset_index()
    out.table("figures/sizes.parquet", sizes)
    with figure(out.path("figures/sizes.svg"), 9, 4, ncols=2, width_ratios=[3, 2]) as (dots, bars):
        share = sizes["images"] / max(1, sizes["images"].max())
        dots.scatter(sizes["width"], sizes["height"], s=6 + 160 * share, alpha=0.35, linewidth=0, rasterized=True)
        ends = sizes[["width", "height"]].to_numpy(float)
        low, high = (ends.min() / 1.25, ends.max() * 1.25) if len(ends) else (10.0, 1000.0)
        dots.plot([low, high], [low, high], color=MUTED, linewidth=0.8)
        dots.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), xlabel="width, pixels")
        dots.set_ylabel("height, pixels")
        aspect = np.log2(sizes["width"] / sizes["height"])
        bars.hist(aspect, bins=np.linspace(-2.05, 2.05, 42), weights=sizes["images"], color=COLOURS[0])
        bars.set(xlabel="width / height (portrait left, landscape right)", ylabel="images")
        bars.set_xticks([-2, -1, 0, 1, 2], ["1:4", "1:2", "1:1", "2:1", "4:1"])
        for axis in (dots.xaxis, dots.yaxis):
            axis.set_major_locator(_round_numbers(low, high))
            axis.set_major_formatter(_plain)
            axis.set_minor_formatter(NullFormatter())


def draw_boxes(readable: pd.DataFrame, column: str, axis_label: str, out: Output, log: bool = False) -> None:
    """Box plots of a column, a class a row, the highest median first; drawn from quantiles, so any size is fast."""
    shares = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    quantiles = readable.groupby("class")[column].quantile(shares).unstack().reindex(columns=shares)
    quantiles.columns = pd.Index(["p5", "p25", "median", "p75", "p95"])
    table = quantiles.astype(float).join(readable.groupby("class").size().rename("images")).reset_index()
    table = table.sort_values(["median", "class"], ascending=[False, True], ignore_index=True)
    out.table(f"figures/{column}.parquet", table)
    with figure(out.path(f"figures/{column}.svg"), 6.2, _height(len(table))) as axes:
        places = np.arange(len(table))
        axes.axvline(readable[column].median(), color=MUTED, linewidth=0.8, zorder=0)
        axes.hlines(places, table["p5"], table["p95"], color=COLOURS[0], linewidth=1)
        box = {"facecolor": "#bfdcec", "edgecolor": COLOURS[0], "height": 0.62, "zorder": 3}
        axes.barh(places, table["p75"] - table["p25"], left=table["p25"], **box)
        axes.vlines(table["median"], places - 0.31, places + 0.31, color=INK, linewidth=1.8, zorder=4)
        _name_rows(axes, table["class"].tolist())
        axes.set_xlabel(axis_label)
        if log:
            axes.set_xscale("symlog", linthresh=1)  # linear below 1: an empty picture has 0
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(_plain)


def duplicate_groups(readable: pd.DataFrame) -> pd.DataFrame:
    """Every group of more than one image, largest first: the same bytes ("exact"), or the same to the eye ("near").

    A near group is listed only where its files differ; `images` counts its distinct contents then.
    """
    exact = readable.assign(kind="exact", group=readable["exact_group"])
    near = readable.drop_duplicates("exact_group").assign(kind="near", group=lambda rows: rows["duplicate_group"])
    rows = pd.concat([exact, near])
    table = rows.groupby(["kind", "group"], as_index=False).agg(
        images=("key", "size"), classes=("class", "nunique"), first=("key", "min")
    )
    table = table.loc[table["images"] > 1]
    return table.sort_values(["kind", "images", "first"], ascending=[True, False, True], ignore_index=True)


def write_sheets(
    readable: pd.DataFrame, groups: pd.DataFrame, scans: list[Artifact], out: Output
) -> list[dict[str, Any]]:
    """Contact sheets: of each class a draw that stays the same while data are added, then of the duplicates."""
    classes = readable["class"].value_counts().sort_index()
    each = each_sheet(len(classes), SHEET_IMAGES, ALL_SHEETS_IMAGES)
    drawn = readable.drop_duplicates("sha256").sort_values(["class", "sha256"]).groupby("class").head(each)
    sheets: list[dict[str, Any]] = [
        {"class": name, "kind": "class", "groups": [rows["key"].tolist()]} for name, rows in drawn.groupby("class")
    ]
    for kind, shown in groups.groupby("kind"):
        members = list(_members(readable, str(kind), shown["group"].head(GROUPS_SHOWN).tolist()))
        sheets.append({"class": "", "kind": kind, "groups": members})
    pictures = thumbnails(scans, {key for sheet in sheets for keys in sheet["groups"] for key in keys})
    for number, sheet in enumerate(sheets):
        sheet |= {"file": f"sheets/{number:02}.jpg", "images": sum(map(len, sheet["groups"]))}
        columns = SHEET_COLUMNS if sheet["kind"] == "class" else GROUP_COLUMNS
        tiles = list(_tiles(sheet["groups"], pictures, columns))
        contact_sheet(tiles, out.path(sheet["file"]), columns)
    return sheets


def _members(readable: pd.DataFrame, kind: str, groups: list[int]) -> Iterator[list[str]]:
    """The keys of each group, at most a row of them."""
    column = "exact_group" if kind == "exact" else "duplicate_group"
    rows = readable if kind == "exact" else readable.drop_duplicates("exact_group")
    keys = rows.loc[rows[column].isin(groups)].groupby(column)["key"].agg(lambda keys: sorted(keys)[:GROUP_COLUMNS])
    yield from (keys[group] for group in groups)


def _tiles(groups: list[list[str]], pictures: dict[str, bytes], columns: int) -> Iterator[np.ndarray | bytes]:
    """The thumbnails in order; each group but the last is filled up to a whole row with blanks."""
    blank = np.full((1, 1, 3), 255, np.uint8)
    for number, keys in enumerate(groups):
        yield from (pictures.get(key, blank) for key in keys)
        if number < len(groups) - 1:
            yield from [blank] * (-len(keys) % columns)


def _height(rows: int) -> float:
    return 1.2 + 0.21 * rows


def _name_rows(axes: Any, names: list[str]) -> None:
    axes.set_yticks(np.arange(len(names)), [label(name, 28) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _plain(value: float, _: int | None = None) -> str:
    """A tick as a plain number: matplotlib's own on logarithmic axes are mathematics."""
    return f"{value:g}"


def _round_numbers(low: float, high: float) -> Any:
    """Ticks at 1, 2 and 5 times the powers of ten; at all whole multiples where the range is narrow."""
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1, 2, 5) if high / low > 4 else tuple(range(1, 10)))
