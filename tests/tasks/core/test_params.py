import math
from typing import Any, get_args

import pytest

from tasks.core.artifacts import canonical
from tasks.core.errors import ParamsError
from tasks.core.params import PRESETS, Architecture, Params, ReportParams, SnapshotParams, TrainParams
from tasks.core.search import size


def test_a_given_value_wins_over_the_preset_and_the_preset_over_the_default() -> None:
    params = Params.of({"preset": "quick", "epochs": 3})

    assert params.epochs == 3
    assert params.image_size == PRESETS["quick"]["image_size"]
    assert params.bootstrap == Params.model_fields["bootstrap"].default


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_used(preset: str) -> None:
    assert Params.of({"preset": preset}).preset == preset


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "There is no param 'epoch'"),
        ({"epochs": 0}, "epochs = 0: .*greater than or equal to 1"),
        ({"epochs": "many"}, "epochs = 'many': .*integer"),
        ({"preset": "best"}, "preset = 'best': .*'demo', 'quick' or 'original'"),
        ({"architectures": []}, "architectures = "),
        ({"architectures": ["alexnet"]}, "architectures.0 = 'alexnet'"),
        ({"min_per_class": 5000}, "min_per_class = 5000 is more than max_per_class = 1000"),
        ({"photo_threshold": 0.5}, "photo_threshold = 0.5: .*greater than 0.5"),
        ({"unsure_threshold": 0.9}, "unsure_threshold = 0.9 is more than photo_threshold = 0.8"),
        ({"architectures": ["keras:ResNet5"]}, "architectures.0 = 'keras:ResNet5'"),
        (
            {"weights": "s3://models/{name}.h5"},
            "architectures = .* holds none: the original's networks start from scratch",
        ),
        ({"schedule": "cosine", "epochs": 5, "warmup_epochs": 5}, "warmup_epochs = 5 leaves none of epochs = 5"),
        ({"as_of": "yesterday"}, "as_of = 'yesterday'"),
        ({"as_of": "0001-01-01T00:00:00+05:00"}, "as_of = '0001-.*: In UTC it is not in the years 1 to 9999"),
        ({"as_of": "9999-12-31T23:00:00-05:00"}, "as_of = '9999-.*: In UTC it is not in the years 1 to 9999"),
        ({"architectures": ["vgg", "residual", "vgg"]}, "architectures = .*: It names 'vgg' twice"),
    ],
)
def test_a_param_that_can_not_be_used_is_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        Params.of(given)


SPACE = {"learning_rate": {"low": 0.001, "high": 0.1}, "optimizer": ["sgd", "adamw"]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"search": {"image_size": [64]}}, "search: 'image_size' can't be searched. What can: epochs, batch_size, "),
        ({"search": {"rate": [0.1]}}, "search: 'rate' can't be searched"),
        ({"search": {"learning_rate": 0.1}}, "learning_rate = 0.1 is neither a list of values nor a range"),
        ({"search": {"learning_rate": []}}, "learning_rate = \\[\\] is neither a list of values nor a range"),
        ({"search": {"learning_rate": [0.1, 20]}}, "search: learning_rate = 20: .*less than or equal to 10"),
        ({"search": {"learning_rate": [0.1, 0.1]}}, "search: learning_rate = .* names 0.1 twice"),
        ({"search": {"epochs": ["5", 5]}}, r"search: epochs = \['5', 5\] names 5 twice"),
        ({"search": {"augment": ["yes", True]}}, r"search: augment = \['yes', True\] names True twice"),
        ({"search": {"learning_rate": {"low": 0, "high": 1}}}, "search: learning_rate = 0: .*greater than 0"),
        ({"search": {"learning_rate": {"low": 1, "high": 0.1}}}, "low must be a number less than high"),
        ({"search": {"learning_rate": {"low": "a", "high": "b"}}}, "low must be a number less than high"),
        ({"search": {"learning_rate": {"min": 0, "max": 1}}}, "learning_rate = .* a range is"),
        ({"search": {"batch_size": {"low": 1.5, "high": 8}}}, "search: batch_size = 1.5: .*integer"),
        ({"search": {"augment": {"low": 0, "high": 1}}}, "search: augment is no number and has no range"),
        ({"search": {"optimizer": ["adam"]}}, "search: optimizer = 'adam': .*'sgd' or 'adamw'"),
        ({"search": {"freeze_epochs": [1]}}, "search: freeze_epochs is for networks keras:<Name>"),
        ({"search": {"weight_decay": [0, 0.1]}}, "weight_decay does nothing without adamw as optimizer, .* it is sgd"),
        ({"search": {"momentum": [0, 0.9]}, "optimizer": "adamw"}, "momentum does nothing without sgd as optimizer"),
        ({"search": {"warmup_epochs": [0, 3]}}, "warmup_epochs does nothing without cosine as schedule"),
        ({"search": {"plateau_patience": [3, 5]}, "schedule": "cosine"}, "does nothing without plateau as schedule"),
        (
            {"search": {"bottleneck": ["output", "inner"]}, "architectures": ["vgg"]},
            "without residual as architectures",
        ),
        ({"search": {"unfrozen_rate": [0.1, 1]}, "architectures": ["keras:VGG16"]}, "where freeze_epochs = 0"),
        ({"search": SPACE, "folds": 5}, "search and folds = 5 together would train each trial 6 times"),
        ({"search": SPACE, "trials": 1}, "trials = 1: .*greater than or equal to 2"),
        (
            {"search": {"schedule": ["plateau", "cosine"], "warmup_epochs": [0, 5]}, "epochs": 5},
            "a trial could have warmup_epochs = 5 of epochs = 5",
        ),
        (
            {"search": SPACE, "trials": 100, "architectures": [*get_args(Architecture)][:11]},
            "11 architectures with trials = 100 each are more than 1,000 trainings",
        ),
    ],
)
def test_a_search_that_can_not_be_done_is_explained(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        Params.of(given)


def test_a_param_may_be_searched_together_with_the_one_that_it_needs() -> None:
    space = {"optimizer": ["sgd", "adamw"], "weight_decay": [0.01, 0.1], "momentum": [0.9]}
    assert len(Params.of({"search": space, "architectures": ["vgg"]}).trainings()) > 1


def test_without_a_search_or_folds_each_architecture_is_trained_once() -> None:
    assert Params.of({"architectures": ["vgg", "baseline"]}).trainings() == [
        {"architecture": "vgg"},
        {"architecture": "baseline"},
    ]


def test_a_search_begins_with_the_runs_own_params_and_draws_what_trains() -> None:
    params = Params.of({"search": SPACE, "trials": 40, "architectures": ["vgg", "residual"]})
    trainings = params.trainings()
    assert trainings[:2] == [{"architecture": "vgg"}, {"architecture": "residual"}]
    assert len(trainings) == 80
    drawn = [training for training in trainings if training["architecture"] == "vgg"][1:]
    assert [{**each, "architecture": "residual"} for each in drawn] == trainings[41:]
    for each in drawn:
        assert params.section(TrainParams, **each).learning_rate == each["learning_rate"]
    rates = sorted(each["learning_rate"] for each in drawn)
    assert 0.001 <= rates[0] < 0.0015
    assert 0.07 < rates[-1] <= 0.1
    assert 0.008 < rates[len(rates) // 2] < 0.0125, "a wide range is searched by its logarithm"
    assert 15 <= sum(each["optimizer"] == "sgd" for each in drawn) <= 24


def test_the_same_seed_draws_the_same_trials_and_more_of_them_begin_alike() -> None:
    def drawn(**given: Any) -> list[dict[str, Any]]:
        return Params.of({"search": SPACE, "architectures": ["vgg"], **given}).trainings()

    assert drawn(trials=20) == drawn(trials=20)
    assert drawn(trials=20)[:8] == drawn(trials=8)
    assert drawn(trials=8) != drawn(trials=8, seed=1)


def test_a_small_space_is_searched_whole_and_nothing_is_trained_twice() -> None:
    space = {"momentum": [0.0, 0.9], "mixup": [0, 0.2, 0.4]}
    drawn = Params.of({"search": space, "architectures": ["vgg"]}).trainings()
    values = [(each.get("momentum", 0.0), each.get("mixup", 0.0)) for each in drawn]
    assert sorted(values) == [(momentum, mixup) for momentum in (0.0, 0.9) for mixup in (0, 0.2, 0.4)]
    fewer = Params.of({"search": space, "architectures": ["vgg"], "trials": 4}).trainings()
    assert len({tuple(each.items()) for each in fewer}) == 4


def test_a_space_without_the_runs_own_params_is_searched_whole_where_there_are_trials_for_it() -> None:
    space = {"momentum": [0.5, 0.9], "mixup": [0.2, 0.4]}
    drawn = Params.of({"search": space, "architectures": ["vgg"], "trials": 5}).trainings()
    values = sorted((each["momentum"], each["mixup"]) for each in drawn[1:])
    assert values == [(0.5, 0.2), (0.5, 0.4), (0.9, 0.2), (0.9, 0.4)]
    seeds = [Params.of({"search": space, "architectures": ["vgg"], "trials": 4, "seed": seed}) for seed in range(9)]
    left_out = [each for params in seeds for each in drawn if each not in params.trainings()]
    assert len(left_out) == 9, "there is a trial too few for one of them"
    assert any(each != left_out[0] for each in left_out), "not always for the last"


def test_trials_hold_only_what_tells_them_apart() -> None:
    space = {"optimizer": ["sgd", "adamw"], "weight_decay": [0.01, 0.1, 0.2], "momentum": [0.5, 0.9]}
    drawn = Params.of({"search": space, "trials": 8, "architectures": ["vgg"]}).trainings()
    sgd, adamw = ([each for each in drawn[1:] if each["optimizer"] == name] for name in space["optimizer"])
    assert sgd == [{"architecture": "vgg", "optimizer": "sgd", "momentum": momentum} for momentum in (0.5, 0.9)]
    assert adamw == [{"architecture": "vgg", "optimizer": "adamw", "weight_decay": decay} for decay in (0.01, 0.1, 0.2)]
    assert size(space) == 5
    rates = {"optimizer": ["sgd", "adamw"], "weight_decay": {"low": 0.01, "high": 1}}
    assert size(rates) == math.inf
    drawn = Params.of({"search": rates, "trials": 8, "architectures": ["vgg"]}).trainings()
    assert [each["optimizer"] for each in drawn[1:]] == ["adamw"] * 7, "the run's own params are those of sgd"


@pytest.mark.parametrize(
    ("given", "drawn"),
    [
        ({"search": {"bottleneck": ["output", "inner"]}, "architectures": ["baseline", "residual"]}, [1, 2]),
        (
            {"search": {"freeze_epochs": [0, 2], "unfrozen_rate": [0.1, 0.5]}, "architectures": ["keras:VGG16", "vgg"]},
            [3, 1],
        ),
    ],
    ids=["of another architecture", "of epochs that none are"],
)
def test_a_trial_that_differs_in_what_is_not_looked_at_is_left_out(given: dict[str, Any], drawn: list[int]) -> None:
    trained = [training["architecture"] for training in Params.of(given).trainings()]
    assert [trained.count(name) for name in given["architectures"]] == drawn


def test_ranges_of_whole_numbers_give_whole_numbers_and_narrow_ones_are_even() -> None:
    space = {"batch_size": {"low": 8, "high": 128}, "momentum": {"low": 0, "high": 0.9}}
    drawn = Params.of({"search": space, "trials": 60, "architectures": ["vgg"]}).trainings()[1:]
    sizes, momenta = ([each[name] for each in drawn] for name in space)
    assert {type(size) for size in sizes} == {int}
    assert 8 <= min(sizes) < 11
    assert 100 < max(sizes) <= 128
    assert 0.4 < sum(momenta) / len(momenta) < 0.5


def test_searched_values_are_what_the_training_takes_them_for() -> None:
    space = {"epochs": ["5", 10], "augment": ["yes", "no"]}
    params = Params.of({"schedule": "cosine", "search": space, "architectures": ["vgg"], "epochs": 10})
    assert params.search == {"epochs": [5, 10], "augment": [True, False]}
    assert {"architecture": "vgg", "epochs": 10, "augment": True} not in params.trainings(), "it is the run's own"
    assert len(params.trainings()) == 4
    assert ReportParams.of({"search": space}).search == params.search
    with pytest.raises(ParamsError, match="search: epochs = 5 is neither"):
        ReportParams.of({"search": {"epochs": 5}})


def test_a_searched_value_that_needs_no_change_keeps_the_reports_key() -> None:
    space = {"momentum": [0, 0.9], "augment": [1, 0], "mixup": {"low": 0, "high": 1}}
    key = canonical(Params.of({"search": space}).section(ReportParams).for_key()["search"])
    assert key == b'{"augment":[1,0],"mixup":{"high":1,"low":0},"momentum":[0,0.9]}'


def test_a_section_holds_what_its_step_reads_and_no_more() -> None:
    section = Params.of({"epochs": 7}).section(TrainParams, architecture="vgg")

    assert (section.epochs, section.architecture) == (7, "vgg")
    assert not hasattr(section, "max_per_class")


def test_observed_params_stay_out_of_the_key() -> None:
    assert SnapshotParams.of({"dataset": "a", "as_of": "2026-01-01"}).for_key() == {}
    assert "seed" in TrainParams().for_key()


def test_a_training_is_known_by_what_its_architecture_looks_at():
    other = {"bottleneck": "inner", "weights": "s3://a/b.h5", "freeze_epochs": 3, "unfrozen_rate": 0.5}
    for architecture, looked_at in (
        ("baseline", set()),
        ("residual", {"bottleneck"}),
        ("keras:MobileNetV2", {"weights", "freeze_epochs", "unfrozen_rate"}),
    ):
        key = TrainParams.of({"architecture": architecture, **other}).for_key()
        assert key.keys() & other.keys() == looked_at
        assert {"architecture", "epochs", "seed"} <= key.keys()


def test_an_instant_without_a_zone_is_utc() -> None:
    as_of = SnapshotParams.of({"as_of": "2026-03-01T12:00:00+09:00"}).as_of
    assert as_of is not None
    assert as_of.isoformat() == "2026-03-01T03:00:00+00:00"
    naive = SnapshotParams.of({"as_of": "2026-03-01T12:00:00"}).as_of
    assert naive is not None
    assert naive.isoformat() == "2026-03-01T12:00:00+00:00"
