import pytest

from tasks.core.errors import ParamsError
from tasks.core.params import PRESETS, Params, SnapshotParams, TrainParams


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
        ({"unsure_threshold": 0.9}, "unsure_threshold = 0.9 is more than photo_threshold = 0.8"),
        ({"architectures": ["keras:ResNet5"]}, "architectures.0 = 'keras:ResNet5'"),
        (
            {"weights": "s3://models/{name}.h5"},
            "architectures = .* holds none: the original's networks start from scratch",
        ),
        ({"schedule": "cosine", "epochs": 5, "warmup_epochs": 5}, "warmup_epochs = 5 leaves none of epochs = 5"),
        ({"as_of": "yesterday"}, "as_of = 'yesterday'"),
    ],
)
def test_a_param_that_can_not_be_used_is_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        Params.of(given)


def test_a_section_holds_what_its_step_reads_and_no_more() -> None:
    section = Params.of({"epochs": 7}).section(TrainParams, architecture="vgg")

    assert (section.epochs, section.architecture) == (7, "vgg")
    assert not hasattr(section, "max_per_class")


def test_observed_params_stay_out_of_the_key() -> None:
    assert SnapshotParams.of({"dataset": "a", "as_of": "2026-01-01"}).for_key() == {}
    assert "seed" in TrainParams().for_key()


def test_an_instant_without_a_zone_is_utc() -> None:
    as_of = SnapshotParams.of({"as_of": "2026-03-01T12:00:00+09:00"}).as_of
    assert as_of is not None
    assert as_of.isoformat() == "2026-03-01T03:00:00+00:00"
    naive = SnapshotParams.of({"as_of": "2026-03-01T12:00:00"}).as_of
    assert naive is not None
    assert naive.isoformat() == "2026-03-01T12:00:00+00:00"
