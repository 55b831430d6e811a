"""Freed memory is kept for what is asked of it next."""

import platform
import subprocess
import sys

import pytest

KEPT = """
import sys
from concurrent.futures import ThreadPoolExecutor
import psutil
from tasks.core.memory import keep_freed

if "keep" in sys.argv:
    keep_freed()
with ThreadPoolExecutor(1) as thread:
    for _ in range(3):
        thread.submit(lambda: len(b"1" * (100 << 20))).result()
print(psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")
def test_a_large_block_is_kept_once() -> None:
    def held(*words: str) -> int:
        """Bytes that the process holds after it has freed 100 MiB three times, in a thread."""
        done = subprocess.run([sys.executable, "-c", KEPT, *words], text=True, capture_output=True, check=True)
        return int(done.stdout)

    assert 90 << 20 < held("keep") - held() < 120 << 20
