"""The errors a person is meant to read: each says what was wrong, where, and what to do.

Their `exit_status` is the command line's, and tells whoever runs it (Airflow, a shell) whether trying again can help.
"""

#: Exit status of a failure that may pass (EX_TEMPFAIL in sysexits.h).
TRY_AGAIN = 75

#: With this the line begins on which the command line says why it failed.
WORDS = "gesso: "

#: What is said of Ctrl-C.
STOPPED = f"{WORDS}stopped; what is finished is kept. Run again to go on."

#: What is said of a training that may be tried again.
GO_ON = "The next try goes on from its checkpoint."


class GessoError(Exception):
    """Anything Gesso explains in words instead of a traceback."""

    exit_status = 1


class ParamsError(GessoError):
    """A param, a setting or a command line that can't be used."""

    exit_status = 2


class DataError(GessoError):
    """The data set or an artifact is not what a step needs."""


class StoreError(GessoError):
    """A store that can't be reached, read or written just now."""

    exit_status = TRY_AGAIN


class Unusable(StoreError):
    """A store that is not set up right, or can't do what Gesso needs of it: trying again does not help."""

    exit_status = 1


class NotFound(StoreError):
    """The object, folder or bucket asked for is not there."""

    exit_status = 1


class Archived(StoreError):
    """The object lies in an archive of its bucket, and can't be read before it is restored."""

    exit_status = 1


class Denied(StoreError):
    """The store refuses these credentials or this path."""

    exit_status = 1


class Interrupted(GessoError):
    """A step that was told to stop, or was killed, and can go on."""

    exit_status = TRY_AGAIN


class Terminated(KeyboardInterrupt):
    """SIGTERM, wherever the main thread is.

    As little an `Exception` as Ctrl-C: whoever catches these would go on, as botocore does with its next try of a
    request.
    """
