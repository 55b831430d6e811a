"""The command line: every step and tool of Gesso, without Airflow.

gesso snapshot --dataset pictures/                      # prints the URI of its artifact
gesso scan --input snapshot=URI                         # each step says with --help what it needs
gesso predict --model champion a.png b.jpg
gesso rollback RUN                                      # puts the model of a past run in use again
gesso gc                                                # says what of the store no run needs; --delete removes it
gesso verify RUN                                        # hashes again what a run used and wrote
gesso reproduce RUN                                     # makes all artifacts of a run anew, and compares
gesso demo pictures/                                    # draws the demo data set
"""

import argparse
import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tasks.core.errors import STOPPED, WORDS, GessoError, Interrupted, ParamsError, Terminated
from tasks.core.local_store import explained
from tasks.core.settings import settings
from tasks.core.step import NAMES, Step, execute, load

TOOLS = "demo, gc, predict, reproduce, rollback, verify"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit status is 0, or the error's."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _stoppable(), explained(words[0] if words else "--help"), _silent_when_unread():
            return _run(words)
    except GessoError as error:
        print(f"{WORDS}{error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 130


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Within, SIGTERM (a pod that is moved, a job that is cancelled) raises `Terminated`; it leaves as `Interrupted`.

    Without this a container's first process would not hear SIGTERM at all, and be killed in the middle.
    """

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        raise Terminated

    def tell() -> None:
        time.sleep(0.1)
        while signal.getsignal(signal.SIGTERM) is stop:  # again: it isn't heard within a wait that it came just before
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)

    def tell_again(lost: "sys.UnraisableHookArgs") -> None:
        if isinstance(lost.exc_value, Terminated):
            signal.signal(signal.SIGTERM, stop)
            threading.Thread(target=tell, daemon=True).start()  # not here, where it is lost too
        else:
            lost_before(lost)

    if threading.current_thread() is not threading.main_thread():  # Python allows signal handlers in no other
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    # What is raised while objects are collected goes no further, and JAX takes part in each collection.
    lost_before, sys.unraisablehook = sys.unraisablehook, tell_again
    try:
        yield
    except Terminated:
        words = "It was told to stop (SIGTERM). Run again: what is finished is kept, and training goes on."
        raise Interrupted(words) from None
    finally:
        sys.unraisablehook = lost_before
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _silent_when_unread() -> Iterator[None]:
    """Within, the process ends in silence where nobody reads any more what it writes: `gesso gc --verbose | head`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        unread = [stream for stream in (sys.stdout, sys.stderr) if _is_broken(stream)]
        if not unread:
            raise
        for stream in unread:  # Python flushes them once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def _is_broken(stream: IO[str]) -> bool:
    """Whether nobody can read any more what is written to a stream."""
    watched = select.poll()
    watched.register(stream, 0)  # that it broke is told in any case
    return bool(watched.poll(0))


def _run(words: list[str]) -> int:
    command = words[0] if words else "--help"
    if command in NAMES:
        return _step(load(command), words[1:])
    if command == "predict":
        from tasks.predict import main as predict

        return predict(words[1:])
    if command == "gc":
        from tasks.gc import main as gc

        return gc(words[1:])
    if command == "rollback":
        from tasks.rollback import main as rollback

        return rollback(words[1:])
    if command in ("reproduce", "verify"):
        from tasks.reproduce import main as reproduce

        return reproduce(words)
    if command == "demo":
        return _demo(words[1:])
    if command in ("-h", "--help"):
        print(__doc__)
        print(f"Steps, in order: {', '.join(NAMES)}\nTools: {TOOLS}")
        return 0
    raise ParamsError(f"There is no command {command!r}. Steps: {', '.join(NAMES)}. Tools: {TOOLS}.")


def _step(step: Step, words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        f"gesso {step.name}", description=step.doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=URI",
        help=f"an input artifact; inputs: {', '.join(step.inputs) or 'none'} (* may be given more than once)",
    )
    parser.add_argument("--store", default=settings().store_uri, help="where artifacts go (default: %(default)s)")
    parser.add_argument("--params", default="{}", metavar="JSON", help="params as JSON; the options below win")
    parser.add_argument("--result", type=Path, metavar="FILE", help="also write {uri, reused, metrics} there as JSON")
    parser.add_argument("--expect-key", metavar="KEY", help="refuse to make an artifact of another key than this")
    for name, field in step.params.model_fields.items():
        parser.add_argument(_option(name), dest=name, help=_help(field))
    options = vars(parser.parse_args(words))

    inputs: dict[str, list[str]] = {}
    for pair in options.pop("input"):
        name, separator, uri = pair.partition("=")
        if not separator:
            raise ParamsError(f"--input {pair}: expected NAME=URI.")
        inputs.setdefault(name, []).append(uri)
    store, result_file, expect_key = options.pop("store"), options.pop("result"), options.pop("expect_key")
    given = _json_object(options.pop("params")) | {
        name: _value(name, step.params.model_fields[name], text) for name, text in options.items() if text is not None
    }

    with contextlib.redirect_stdout(sys.stderr):  # progress; standard output is for the URI alone
        result = execute(step.name, inputs, step.params.of(given), store, expect_key)
    if result_file:
        summary = {"uri": result.artifact.uri, "reused": result.reused, "metrics": result.artifact.metrics}
        result_file.write_text(json.dumps(summary))
    print(f"{step.name}: {'reused' if result.reused else 'done'}, {result.artifact.metrics}", file=sys.stderr)
    print(result.artifact.uri)
    return 0


def _json(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ParamsError(f"{option} {text!r} is not JSON: {error}.") from None


def _json_object(text: str) -> dict[str, Any]:
    value = _json("--params", text)
    if not isinstance(value, dict):
        raise ParamsError(f"--params {text!r} is not a JSON object.")
    return value


def _value(name: str, field: FieldInfo, text: str) -> Any:
    """What an option's text means; that of a scalar is the params' own business."""
    if _is_list(field) and not text.lstrip().startswith("["):
        return [item for item in map(str.strip, text.split(",")) if item]
    return _json(_option(name), text) if _is_list(field) or _is_object(field) else text


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is list


def _is_object(field: FieldInfo) -> bool:
    kinds = [field.annotation, *get_args(field.annotation)]  # of `X | None`, too
    return any(get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)) for kind in kinds)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _help(field: FieldInfo) -> str:
    choices = [str(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]
    allowed = f" One of: {', '.join(choices)}." if choices else ""
    if _is_list(field):
        allowed = " With commas between them, or a JSON list."
    elif _is_object(field):
        allowed = " A JSON object."
    return f"{field.description}{allowed} (default: {field.default!r})".replace("%", "%%")


def _demo(words: list[str]) -> int:
    parser = argparse.ArgumentParser("gesso demo", description="Draw the demo data set into a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1600, help="about how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    from tasks.demo import make_demo

    print(json.dumps(make_demo(options.folder, images=options.images, seed=options.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
