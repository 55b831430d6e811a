"""Hyper-parameter search: the trials of a run, drawn before the first of them trains, so that they train side by side.

A space names params of the training, each with a list of values or a range:

    {"optimizer": ["sgd", "adamw"], "learning_rate": {"low": 0.001, "high": 0.1}}

A space of lists no larger than the search is searched whole. Of any other, trials are spread evenly by a scrambled
Halton sequence: quasi-random points leave smaller gaps than random ones (Bergstra and Bengio, Random search for
hyper-parameter optimization, JMLR 13, 2012). None waits for another's result, and a trial's key is that of a training
with these params, so a larger search reuses the trials of a smaller one.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.core.errors import ParamsError

Space = Mapping[str, Any]

DRAWS = 50
"""How often a trial may be drawn that was drawn before, for each that is wanted."""

WIDE = 10
"""From this ratio of its ends on, a range above zero is searched by its logarithm."""


def checked(space: Space, kinds: Mapping[str, Any], taken: Callable[[str, Any], Any]) -> dict[str, Any]:
    """A space, checked, with each listed value as the param takes it.

    Args:
        space: what is to be searched.
        kinds: the type of each param that may be searched.
        taken: a param's value as it takes it: 5 for "5". Raises `ParamsError` for one that it doesn't take.

    Raises:
        ParamsError: says which entry is wrong, and what is allowed.
    """
    found: dict[str, Any] = {}
    for name, values in space.items():
        if name not in kinds:
            raise ParamsError(f"search: {name!r} can't be searched. What can: {', '.join(kinds)}.")
        if isinstance(values, Mapping):
            _check_range(name, values, kinds[name])
        elif not isinstance(values, list) or not values:
            raise ParamsError(
                f'search: {name} = {values!r} is neither a list of values nor a range {{"low": …, "high": …}}.'
            )
        try:
            each = [taken(name, value) for value in ends(values)]
        except ParamsError as error:
            raise ParamsError(f"search: {error}") from None
        found[name] = values if isinstance(values, Mapping) else each
        if twice := repeated(each):
            raise ParamsError(f"search: {name} = {values!r} names {twice[0]!r} twice.")
    return found


def repeated(values: Sequence[Any]) -> list[Any]:
    """Each value that stands before, too."""
    return [value for place, value in enumerate(values) if value in values[:place]]


def _check_range(name: str, values: Mapping[str, Any], kind: Any) -> None:
    if kind not in (int, float):
        raise ParamsError(f"search: {name} is no number and has no range: list its values.")
    if set(values) != {"low", "high"}:
        raise ParamsError(f'search: {name} = {dict(values)!r}: a range is {{"low": …, "high": …}}.')
    numbers = [value for value in values.values() if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values) or not values["low"] < values["high"]:
        raise ParamsError(f"search: {name} = {dict(values)!r}: low must be a number less than high.")


def ends(values: Any) -> list[Any]:
    """The values of a list, or the ends of a range."""
    return list(values.values()) if isinstance(values, Mapping) else list(values)


def size(space: Space) -> float:
    """How many trials a space holds; infinitely many where it holds a range."""
    return math.prod(math.inf if isinstance(values, Mapping) else len(values) for values in space.values())


def draw(space: Space, trials: int, seed: int, own: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The params of each trial but the first, which is the run's own.

    The same space and seed give the same trials, and of a space that isn't searched whole more trials begin with those
    of fewer.

    Args:
        space: a checked one.
        trials: how many there are, the first counted; a small space has fewer.
        seed: of the sequence.
        own: the run's own values.
    """
    names = list(space)
    wanted: Sequence[Any]
    if size(space) <= trials:
        wanted = list(itertools.product(*space.values()))
    else:
        from scipy.stats import qmc  # half a second, and only a search needs it

        points = qmc.Halton(len(names), scramble=True, rng=seed).random(DRAWS * trials)
        wanted = [[_at(space[name], place, own[name]) for name, place in zip(names, p, strict=True)] for p in points]
    drawn: list[dict[str, Any]] = []
    for values in wanted:
        trial = dict(zip(names, values, strict=True))
        if len(drawn) < trials - 1 and trial not in drawn and any(own[name] != trial[name] for name in names):
            drawn.append(trial)
    return drawn


def _at(values: Any, place: float, own: Any) -> Any:
    """The value at a place of 0 to 1: whole where the run's own is, else with three digits."""
    if not isinstance(values, Mapping):
        return values[min(int(place * len(values)), len(values) - 1)]
    low, high = values["low"], values["high"]
    by_logarithm = low > 0 and high / low >= WIDE
    value = low * (high / low) ** place if by_logarithm else low + place * (high - low)
    return min(max(round(value) if isinstance(own, int) else float(f"{value:.3g}"), low), high)
