"""What a process does with memory that it frees."""

import contextlib
import ctypes

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed() -> None:
    """Have the C library keep freed memory for what is asked of it next; where it isn't glibc nothing happens.

    For a process that again and again needs the same large blocks, as a network does for its tensors: glibc gives such
    a block back to the system at once, and the system clears each page of the next one when it is first touched. Of a
    training step on a CPU that was a third to a half (`docs/training.md`). A block of any size comes from the one heap:
    with one for each thread a process would need half as much again. Before threads are started.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
