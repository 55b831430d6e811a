"""What a process does with memory that it frees."""

import contextlib
import ctypes

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed() -> None:
    """Have the C library keep freed memory for what is asked of it next; where it isn't glibc nothing happens.

    For a process that again and again needs the same large blocks, as a network does for its tensors: glibc gives such
    a block back to the system at once, and the system clears each page of the next one when it is first touched. That
    was up to half of a training step on a CPU (`docs/training.md`). Blocks of any size and all threads come from one
    heap: with one for each thread it would take up to half as much again. To be called before threads are started.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
