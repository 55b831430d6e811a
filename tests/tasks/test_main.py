"""The command line tells in words what can't be done."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from urllib3 import HTTPConnectionPool

from tasks import __main__
from tasks.__main__ import main
from tasks.core.errors import TRY_AGAIN
from tasks.core.params import Section
from tasks.core.step import Result
from tasks.core.store import LocalStore, open_store


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Section]:
    """The params that steps were run with: they do nothing else here."""
    seen: list[Section] = []

    def execute(name: str, inputs: Any, params: Section, store: str, expect_key: str | None) -> Result:
        seen.append(params)
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "execute", execute)
    return seen


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["cluster", "--contaminated", "L2_3"], "contaminated", ["L2_3"]),
        (["cluster", "--contaminated", "L2_3, L2 12,"], "contaminated", ["L2_3", "L2 12"]),
        (["cluster", "--contaminated", '["a, b", "[c]"]'], "contaminated", ["a, b", "[c]"]),
        (["cluster", "--contaminated", ""], "contaminated", []),
        (["cluster", "--review", "[a]"], "review", "[a]"),
        (["report", "--architectures", "vgg,baseline"], "architectures", ["vgg", "baseline"]),
        (["report", "--search", '{"epochs": [5, 10]}'], "search", {"epochs": [5, 10]}),
        (["promote", "--approval", "null"], "approval", None),
        (["promote", "--approval", '{"answer": "hold", "by": "me"}'], "approval.by", "me"),
        (["train", "--epochs", "7"], "epochs", 7),
    ],
)
def test_an_option_takes_lists_and_objects(words: list[str], name: str, value: Any, given: list[Section]) -> None:
    main(words)
    found: Any = given[0]
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "--search", "{"], "--search '{' is not JSON: "),
        (["report", "--search", "5"], "search = 5: Input should be a valid dictionary"),
        (["cluster", "--contaminated", "[a]"], "--contaminated '[a]' is not JSON: "),
        (["cluster", "--contaminated", "[1]"], "contaminated.0 = 1: "),
        (["report", "--architectures", "vgg,vg"], "architectures.1 = 'vg': "),
        (["cluster", "--params", "1" * 5000], "is not JSON: "),
        (["cluster", "--params", "[]"], "--params '[]' is not a JSON object."),
    ],
)
def test_an_option_that_can_not_be_used_is_named(
    words: list[str], said: str, given: list[Section], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert not given


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("cluster", "any class may. With commas between them, or a JSON list. (default: [])"),
        ("report", "Empty: no search. A JSON object. (default: {})"),
        ("promote", "the run wants an approval. A JSON object. (default: None)"),
    ],
)
def test_help_says_how_to_write_a_value(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([words, "--help"])
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("folder", ["a file/set", "x" * 300])
def test_a_file_that_can_not_be_used_is_named(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a file").touch()
    assert main(["demo", str(tmp_path / folder)]) != 0
    said = capsys.readouterr().err
    assert said.startswith("gesso: demo: ")
    assert folder[:200] in said or f".{folder.rpartition('/')[2]}.partial" in said


def test_stopped_by_hand_it_says_what_is_kept(given: list[Section], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "gesso: stopped; what is finished is kept. Run again to go on.\n"


@pytest.mark.parametrize("both", [False, True], ids=["output", "errors-too"])
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["at-the-end", "at-once"])
def test_it_ends_in_silence_where_nobody_reads(both: bool, unbuffered: str, store: LocalStore) -> None:
    store.put("failed/scan/key/scan.parquet", b"")
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "tasks", "gc", "--verbose"],
        stdout=writer,
        stderr=writer if both else subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    os.close(writer)
    assert ended.returncode == 128 + signal.SIGPIPE
    assert b"Broken pipe" not in (ended.stderr or b"")


def test_told_to_stop_while_objects_are_collected_it_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told, really = [], os.kill

    def kill(process: int, number: int) -> None:
        told.append(number)
        if len(told) != 2:  # as if it came just before a wait, and were not heard within it
            really(process, number)

    def told_to_stop(*_: object) -> None:
        gc.callbacks.remove(told_to_stop)
        os.kill(os.getpid(), signal.SIGTERM)

    def execute(*_: object) -> Result:
        gc.callbacks.append(told_to_stop)
        gc.collect()
        time.sleep(60)
        raise AssertionError("It went on.")

    monkeypatch.setattr(__main__, "execute", execute)
    monkeypatch.setattr(os, "kill", kill)
    assert main(["train"]) == TRY_AGAIN
    assert "It was told to stop (SIGTERM)" in capsys.readouterr().err


def test_told_to_stop_within_a_request_it_stops_and_tries_no_other(
    s3: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent, send = [], HTTPConnectionPool.urlopen

    def told_to_stop(*arguments: Any, **options: Any) -> Any:
        sent.append(arguments)
        if len(sent) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return send(*arguments, **options)

    def execute(*_: object) -> Result:
        store = open_store(s3)
        monkeypatch.setattr(HTTPConnectionPool, "urlopen", told_to_stop)
        store.put("key", b"data")
        raise AssertionError("It went on.")

    monkeypatch.setattr(__main__, "execute", execute)
    assert main(["train"]) == TRY_AGAIN
    assert "It was told to stop (SIGTERM)" in capsys.readouterr().err
    assert len(sent) == 1
