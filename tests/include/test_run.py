"""`make run` says what of its params can't be used, before Airflow starts."""

from pathlib import Path

import pytest

from include import run


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ('{"dataset": 5}', "dataset = 5: Input should be a valid string"),
        ('{"dataset": ["a"]}', "dataset = ['a']: Input should be a valid string"),
        ("{", "PARAMS is not JSON: "),
        ("1" * 5000, "PARAMS is not JSON: "),
        ("[]", "PARAMS is not a JSON object: '[]'"),
        ('{"epochs": 0}', "epochs = 0: "),
    ],
)
def test_params_that_can_not_be_used(params: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--params", params]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_can_not_be_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home.touch()
    monkeypatch.chdir(home.parent)
    assert run.main(["--dataset", "pictures"]) != 0
    assert f"gesso: make run: [Errno 20] Not a directory: '{home}/airflow-run'" in capsys.readouterr().err
