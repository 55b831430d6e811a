"""Decide whether the model that `evaluate` chose becomes the champion, the model in use for the data set.

It does if it passes every check:
  floor          its macro F1 on the test part is at least min_macro_f1
  better         against a champion: the 90% interval of the difference in macro F1 lies above 0 (paired bootstrap); so
                 does that without the classes of fewer than 5 test images, one of which could decide it otherwise.
                 It must beat the champion, not merely equal it: a change of the model in use has a cost, and a looser
                 rule would let a weekly stream of equal challengers walk the champion downhill on luck
  class drop     against a champion: no class with at least 5 test images loses more F1 than max_class_drop, or than
                 one image makes (1 of n) where that is more
  allowed        promote is on for this run
  withdrawn      (where it is) nobody took it out of use by `gesso rollback`
  approval       where the run wants a person's approval: the answer is to promote; it is to hold where nobody was
                 asked, since the model failed a check or is in use already

Both models are judged on the same images: this run's test part, without what the champion was trained or validated on,
and without duplicates of that (where the split was drawn anew, it would be asked about images that it has learnt). A
champion of another image size gets the images from the data set again, at its size. Classes are matched by name; images
of a class that the champion doesn't know count as wrong for it. A champion that can't be opened any more counts as
none.

A candidate that fails a check is a successful run whose verdict is HOLD. Writes
  decision.json  verdict ("PROMOTE" | "HOLD"), candidate {model, artifact, architecture, macro_f1}, champion (null or
                 the same, its macro_f1 on the compared images), in_use (whether the candidate was the champion already;
                 then "champion" is the one before it), reasons [{check, passed, observed, required, message}],
                 comparison (null or {images, candidate_macro_f1, champion_macro_f1, delta_macro_f1,
                 interval [low, high], few (null or {classes: how many have fewer than 5 images; delta_macro_f1 and
                 interval without them, null where all have}), mcnemar {champion_only, candidate_only, p}: images that
                 one of them alone got right and McNemar's exact test, which decides nothing; per_class [{class,
                 images, champion_f1, candidate_f1, delta}]}), notes [text], approval (null or {answer, by, note})

The pointer to the champion moves before this artifact is committed, so a crash between the two repeats safely: a model
that is the champion already is measured against the one that it replaced.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from tasks.comparison import FEW, Rival, compare, fight
from tasks.core import params
from tasks.core.artifacts import Artifact, Inputs, Output
from tasks.core.champion import Champion, key_of, move_champion, read_champion
from tasks.core.errors import DataError, NotFound, ParamsError, StoreError
from tasks.core.store import Store

INPUTS = ("snapshot", "resample", "pack*", "train*", "evaluate")
Params = params.PromoteParams


@dataclass(frozen=True)
class Check:
    """One condition of a promotion and how it went."""

    check: str
    passed: bool
    observed: str
    required: str
    message: str


def observe(inputs: Inputs, params: params.PromoteParams, out: Output) -> tuple[Any, Any]:
    """Read the champion. The one that the candidate is measured against goes into the key."""
    pointer, etag = read_champion(out.store, dataset(inputs))
    candidate = chosen(inputs)
    uri = opponent(pointer, candidate)
    seen: dict[str, Any] = {"champion": key_of(uri) if uri else None}
    if is_withdrawn(candidate, pointer):
        seen["withdrawn"] = [candidate.key]
    if stays_in_use(candidate, pointer, params):
        seen["in_use"] = True
    return seen, (pointer, etag)


def run(inputs: Inputs, params: params.PromoteParams, out: Output) -> None:
    """Measure the model that `evaluate` chose against the champion, and put it in use where it passes every check.

    Raises:
        ParamsError: `evaluate` judged other models, or another test part, than the ones given.
        StoreError: the store is away, or another run changed the champion meanwhile.
    """
    candidate, (pointer, etag) = chosen(inputs), out.observed
    evaluation = inputs.one("evaluate").json("evaluation.json")
    macro_f1 = float(evaluation["macro"]["f1"])
    in_use = stays_in_use(candidate, pointer, params)
    rival, opened = open_rival(out.store, opponent(pointer, candidate), in_use)
    checks = [check_floor(macro_f1, params.min_macro_f1), check_allowed(params.promote), opened]
    comparison, champion_macro_f1, notes = None, None, [STAYS] if in_use else []
    if rival:
        duel = fight(inputs, rival)
        notes += duel.notes
        if len(duel.truth):
            comparison = compare(duel, inputs.one("resample").json("classes.json"), params)
            champion_macro_f1 = float(comparison["champion_macro_f1"])
            checks += [check_better(comparison), check_drop(comparison["per_class"], params.max_class_drop)]
        else:
            checks.append(no_images())
    if is_withdrawn(candidate, pointer):
        checks.append(WITHDRAWN)
    if params.approval:
        checks.append(check_approval(params.approval))
    verdict = "PROMOTE" if all(check.passed for check in checks) else "HOLD"
    for check in checks:
        out.log(f"{'passed' if check.passed else 'FAILED'}  {check.check}: {check.message}")
    if verdict == "PROMOTE":
        put_in_use(out.store, dataset(inputs), candidate, inputs.one("evaluate"), pointer, etag)

    out.json(
        "decision.json",
        {
            "verdict": verdict,
            "candidate": facts(candidate, macro_f1),
            "champion": facts(rival.artifact, champion_macro_f1) if rival else None,
            "in_use": in_use,
            "reasons": [asdict(check) for check in checks],
            "comparison": comparison,
            "notes": notes,
            "approval": params.approval.model_dump() if params.approval else None,
        },
    )
    out.metrics |= {
        "verdict": verdict,
        "images": int(evaluation["images"]),
        "macro_f1": macro_f1,
        "champion_macro_f1": champion_macro_f1,
        "delta": comparison["delta_macro_f1"] if comparison else None,
    }


def reuse(inputs: Inputs, params: params.PromoteParams, out: Output, found: Artifact) -> None:
    """Put the candidate in use where the decision that was found says so: the pointer may have been deleted, or moved
    back, since. Raises as `put_in_use`."""
    if found.metrics["verdict"] == "PROMOTE":
        put_in_use(out.store, dataset(inputs), chosen(inputs), inputs.one("evaluate"), *out.observed)


def dataset(inputs: Inputs) -> str:
    """The data set whose champion it is."""
    return str(inputs.one("snapshot").json("snapshot.json")["dataset"])


def chosen(inputs: Inputs) -> Artifact:
    """The model that `evaluate` chose.

    Raises:
        ParamsError: `evaluate` judged other models, or another pack, than the ones given.
    """
    evaluate, resample = inputs.one("evaluate"), inputs.one("resample")
    if evaluate.inputs["resample"] != resample.key:
        raise ParamsError(f"{evaluate.uri} judged on another test part than that of {resample.uri}.")
    for model in inputs.many("train"):
        if model.key == evaluate.metrics["model"]:
            return model
    raise ParamsError(f"{evaluate.uri} chose a model that is not among the `train` artifacts given.")


def opponent(pointer: Champion | None, candidate: Artifact) -> str | None:
    """URI of the model to beat: the champion, or where the candidate is that already, the one it replaced."""
    if pointer is None:
        return None
    return pointer.previous if key_of(pointer.model) == candidate.key else pointer.model


def stays_in_use(candidate: Artifact, pointer: Champion | None, params: params.PromoteParams) -> bool:
    """Whether the candidate is the champion already, and stays in use whatever this run decides.

    Else a run that may promote the champion itself made it that, and finds its own decision.
    """
    held = not params.promote or (params.approval is not None and params.approval.answer != "approve")
    return pointer is not None and key_of(pointer.model) == candidate.key and (held or pointer.by_hand)


#: The note on a decision of that kind.
STAYS = (
    "This very model is in use already, and stays so whatever the verdict. To put another in its place: "
    "`gesso rollback` and the id of that one's run."
)


def open_rival(store: Store, uri: str | None, in_use: bool) -> tuple[Rival | None, Check]:
    """The champion, or the one before a candidate `in_use`, if it can be opened, and what is to be said of that."""
    required = "none, or one that can be opened"
    if uri is None:
        message = "There is no other champion to beat: the floor alone decides."
        return None, Check("champion", True, "none", required, message)
    try:
        rival = Rival.open(store, uri)
    except (DataError, NotFound, ParamsError) as error:
        message = f"The champion can't be opened and counts as none: the floor alone decides. {error}"
        return None, Check("champion", True, "can't be opened", required, message)
    message = f"Measured against the champion {'before it, ' if in_use else ''}{rival.artifact.folder}."
    return rival, Check("champion", True, rival.artifact.key, required, message)


def check_floor(macro_f1: float, floor: float) -> Check:
    """Whether the candidate is good enough at all."""
    passed = macro_f1 >= floor
    message = (
        f"Macro F1 on the test part is {macro_f1:.4f}, {'at least' if passed else 'below'} the floor of {floor:g}."
    )
    return Check("floor", passed, f"{macro_f1:.4f}", f"at least {floor:g}", message)


def check_allowed(promote: bool) -> Check:
    """Whether this run may move the champion."""
    message = "Promotion is on for this run." if promote else "Promotion is off for this run (promote = false)."
    return Check("allowed", promote, "on" if promote else "off", "on", message)


def is_withdrawn(candidate: Artifact, pointer: Champion | None) -> bool:
    """Whether a person took the candidate out of use."""
    return pointer is not None and candidate.key in pointer.withdrawn


#: The check that a withdrawn model fails.
WITHDRAWN = Check(
    "withdrawn",
    False,
    "withdrawn",
    "not withdrawn",
    "This very model was in use and was withdrawn by `gesso rollback`. Train another, by new images, params or another "
    "seed; or roll back to a run of it.",
)


def check_approval(approval: params.Answer) -> Check:
    """Whether the person who was asked wants it, or what counts instead."""
    passed = approval.answer == "approve"
    note = f" “{approval.note}”" if approval.note else ""
    message = f"{approval.by}: {approval.answer}.{note}"
    return Check("approval", passed, approval.answer, "approve", message)


def check_better(comparison: dict[str, Any]) -> Check:
    """Whether the candidate beats the champion."""
    delta, (low, high) = comparison["delta_macro_f1"], comparison["interval"]
    found, few = f"{delta:+.4f}, 90% interval {low:+.4f} to {high:+.4f}", comparison["few"]
    passed, without = low > 0, ""
    if few and few["interval"] is None:
        passed, without = (
            False,
            f"No class has {FEW} test images, and it takes one that has: raise test_share, or add images. ",
        )
    elif few:
        passed = passed and few["interval"][0] > 0
        without = (
            f"Without the classes ({few['classes']}) of fewer than {FEW} test images: {few['delta_macro_f1']:+.4f}, "
            f"90% interval {few['interval'][0]:+.4f} to {few['interval'][1]:+.4f}. "
        )
    message = (
        f"Macro F1 {comparison['candidate_macro_f1']:.4f} against the champion's {comparison['champion_macro_f1']:.4f} "
        f"on the same {comparison['images']} test images: {found}. "
        f"{without}{'The candidate is better' if passed else 'That does not show that the candidate is better'}."
    )
    return Check("better", passed, found, "interval above 0", message)


def check_drop(per_class: list[dict[str, Any]], allowed: float) -> Check:
    """Whether no class pays for it."""
    judged = [row for row in per_class if row["images"] >= FEW]
    # F1 of .85 and .80 differ by a little more than .05 in binary arithmetic
    lost = sorted(
        (row for row in judged if row["delta"] < -max(allowed, 1 / row["images"]) - 1e-9),
        key=lambda row: float(row["delta"]),
    )
    worst = min((row["delta"] for row in judged), default=0.0)
    names = ", ".join(f"{row['class']} {row['champion_f1']:.3f} to {row['candidate_f1']:.3f}" for row in lost)
    message = f"Of the {len(judged)} classes with at least {FEW} test images " + (
        f"these lose more than {allowed:g} F1, and more than one image makes: {names}."
        if lost
        else f"none loses more than {allowed:g} F1, or than one image makes."
    )
    return Check("class drop", not lost, f"largest loss {max(0.0, -worst):.4f}", f"at most {allowed:g}", message)


def no_images() -> Check:
    """What to say where nothing is left to compare by."""
    message = (
        "There is no test image by which both models can be judged: the champion was trained on all of them, or they "
        "are gone from the data set. Keep the shares of the split, or add images."
    )
    return Check("same images", False, "0", "at least 1", message)


def facts(model: Artifact, macro_f1: float | None) -> dict[str, Any]:
    """A model as the decision names it."""
    return {
        "model": model.key,
        "artifact": model.folder,
        "architecture": model.metrics["architecture"],
        "macro_f1": macro_f1,
    }


def put_in_use(
    store: Store, name: str, candidate: Artifact, evaluation: Artifact, pointer: Champion | None, etag: str | None
) -> None:
    """Make the candidate the champion of a data set; one that is already gets its evaluation, which may be a new one.

    Raises:
        StoreError: another run moved the pointer since it was read. A retry measures against the new champion.
    """
    if pointer and key_of(pointer.model) == candidate.key:
        if key_of(pointer.evaluation) == evaluation.key:
            return
        champion = replace(pointer, evaluation=evaluation.uri)
    else:
        champion = Champion(
            candidate.uri,
            previous=pointer.model if pointer else None,
            since=str(evaluation.manifest["made_at"]),
            evaluation=evaluation.uri,
            withdrawn=pointer.withdrawn if pointer else [],
        )
    if move_champion(store, name, champion, etag):
        return
    now, _ = read_champion(store, name)
    if now is None or key_of(now.model) != candidate.key:
        raise StoreError(
            f"Another run changed the champion meanwhile, to {now.model if now else 'none'}. Run again: the candidate "
            f"is then measured against that."
        )
