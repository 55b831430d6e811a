"""The secrets of a deployment by docker compose: `make env`.

    python3 -m include.make_env .env        # standard library only: compose needs nothing else of Gesso on the machine

Each secret is random, of at least 128 bits. A file that is there is never overwritten: without its secrets the data of
a deployment can't be opened.
"""

import base64
import os
import secrets
import sys
from pathlib import Path


def env_file_text() -> str:
    """The text of a new .env file, with secrets made for it."""
    fernet = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return f"""\
# Made by `make env`. Keep a copy of this file with the backups: without it their data can't be opened.
# What else can be set here is at the head of docker-compose.yaml.

# Login of Airflow's UI; the user is admin.
GESSO_ADMIN_PASSWORD={secrets.token_urlsafe(16)}

# Between the containers.
GESSO_DATABASE_PASSWORD={secrets.token_urlsafe(32)}
GESSO_REDIS_PASSWORD={secrets.token_urlsafe(32)}
GESSO_S3_ACCESS_KEY={secrets.token_hex(16)}
GESSO_S3_SECRET_KEY={secrets.token_urlsafe(32)}
GESSO_FERNET_KEY={fernet}
GESSO_JWT_SECRET={secrets.token_urlsafe(64)}
GESSO_API_SECRET={secrets.token_urlsafe(32)}
"""


def make_env(file: Path) -> bool:
    """Write the file, readable by this user alone. False where there is one already, which is left as it is."""
    try:
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(opened, "w") as output:
        output.write(env_file_text())
    return True


def main(arguments: list[str]) -> int:
    """Make the file that the command line names, or say that it is there; the exit status is 0 either way."""
    file = Path(arguments[0] if arguments else ".env")
    try:
        made = make_env(file)
    except OSError as error:
        print(f"gesso: {file} can't be written: {error.strerror}.", file=sys.stderr)
        return 1
    if made:
        print(f"Made {file}. The login of Airflow's UI is admin, with the GESSO_ADMIN_PASSWORD in it.")
    else:
        print(f"{file} is there already, and was left as it is.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
