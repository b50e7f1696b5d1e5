"""How a process that answers requests frees memory: what Python's collector looks at, and what the C library hands back to the kernel.

Each request makes thousands of objects, and after some requests the collector looks at all that the process has: the modules, the
application, the documents of a release. None of that is garbage, and looking at it takes CPU time from requests
(`python bench/serving.py overload`).

Every layer of an encoder allocates and frees arrays of some megabytes. On a CPU these are the C library's, which hands freed ones back to
the kernel, which clears their pages when the next ones are allocated: a fifth of the time of encoding short texts
(`python bench/allocator.py`).
"""

import ctypes
import gc
import sys
from contextlib import suppress

THRESHOLDS = 10_000, 20, 50
"""Objects more than before until the youngest are looked at; of these looks, until older ones are too.

Python's own are 700, 10, 10, with which a request that makes thousands of objects causes several looks.
"""

ARRAY_BYTES = 32 << 20
"""Arrays up to this size are made of memory that the process has; it is the most that the C library takes here."""
KEPT_BYTES = 256 << 20
"""The most freed memory that the process keeps."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def collect_and_freeze() -> None:
    """Collects what is garbage now, and leaves what is there out of later collections; what came since the last call is looked at again.

    The memory of a GPU that this frees is handed back. To be called when the process has what it keeps: once a release
    answers, and once the one before it is closed. Requests wait for it: in a replica, which has imported torch and
    Ray, 0.3 s, of the 2 s after which a stall counts as a failure. In a thread it would stop the others all the same.
    """
    gc.unfreeze()
    gc.collect()
    freeze()
    gc.set_threshold(*THRESHOLDS)
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # torch keeps what freed tensors had, which an encoder in another process may need


def freeze() -> None:
    """Leaves what is there out of later collections."""
    gc.freeze()


def keep_freed_memory() -> None:
    """Has this process keep memory that it frees, up to 256 MiB, for the arrays that it allocates next.

    It does nothing where the C library is not glibc.
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, ARRAY_BYTES)
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
