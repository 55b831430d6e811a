"""Hyper-parameter search: the trials of a run, drawn before the first of them trains, so that they train side by side.

A space names params of the training, each with a list of values or a range:

    {"optimizer": ["sgd", "adamw"], "learning_rate": {"low": 0.001, "high": 0.1}}

A space of lists is searched whole where the search has a trial for each of its combinations beside the run's own
params. Of any other, trials are spread evenly by a scrambled Halton sequence: quasi-random points leave smaller gaps
than random ones (Bergstra and Bengio, Random search for hyper-parameter optimization, JMLR 13, 2012). A trial holds no
param that does nothing beside its others (momentum under AdamW), so no two of them train the same. None waits for
another's result, and a trial's key is that of a training with these params, so a larger search reuses the trials of a
smaller one.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tasks.core.errors import ParamsError

Space = Mapping[str, Any]

DRAWS = 50
"""How often a trial may be drawn that was drawn before, for each that is wanted."""

WIDE = 10
"""From this ratio of its ends on, a range above zero is searched by its logarithm."""

ONLY_WITH = {
    "weight_decay": ("optimizer", "adamw"),
    "momentum": ("optimizer", "sgd"),
    "warmup_epochs": ("schedule", "cosine"),
    "plateau_patience": ("schedule", "plateau"),
    "bottleneck": ("architectures", "residual"),
}
"""Params that a training looks at only where another one has this value."""


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
    """How many different trials a space holds; infinitely many where it holds a range."""
    needed = [name for name in space if name in {other for other, _ in _needs(space).values()}]
    return sum(
        math.prod(
            math.inf if isinstance(space[name], Mapping) else len(space[name])
            for name in _telling(space, dict(zip(needed, values, strict=True)))
            if name not in needed
        )
        for values in itertools.product(*(space[name] for name in needed))
    )


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
    if size(space) <= trials:
        whole = list(_different(space, itertools.product(*space.values()), own))
        if len(whole) < trials:
            return whole
    from scipy.stats import qmc  # half a second, and only a search needs it

    points = qmc.Halton(len(space), scramble=True, rng=seed).random(DRAWS * trials)
    wanted = ([_at(space[name], place, own[name]) for name, place in zip(space, p, strict=True)] for p in points)
    return list(itertools.islice(_different(space, wanted, own), trials - 1))


def _different(space: Space, wanted: Iterable[Sequence[Any]], own: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The trials of these combinations that train as neither the run's own params nor one before them."""
    before = [{name: own[name] for name in _telling(space, own)}]
    for values in wanted:
        params = dict(zip(space, values, strict=True))
        trial = {name: params[name] for name in _telling(space, params)}
        if trial not in before:
            before.append(trial)
            yield trial


def _telling(space: Space, params: Mapping[str, Any]) -> list[str]:
    """The space's params that a training looks at which has these."""
    needs = _needs(space)
    return [name for name in space if name not in needs or params[needs[name][0]] == needs[name][1]]


def _needs(space: Space) -> dict[str, tuple[str, str]]:
    """Params of the space that do nothing without a value of another of its params, with that param and value."""
    return {name: (other, value) for name, (other, value) in ONLY_WITH.items() if {name, other} <= space.keys()}


def _at(values: Any, place: float, own: Any) -> Any:
    """The value at a place of 0 to 1: whole where the run's own is, else with three digits."""
    if not isinstance(values, Mapping):
        return values[min(int(place * len(values)), len(values) - 1)]
    low, high = values["low"], values["high"]
    by_logarithm = low > 0 and high / low >= WIDE
    value = low * (high / low) ** place if by_logarithm else low + place * (high - low)
    return min(max(round(value) if isinstance(own, int) else float(f"{value:.3g}"), low), high)
