"""Python's collector of reference cycles, in a process that answers requests.

Each request makes thousands of objects, and after some requests the collector looks at all that the process has: the modules, the
application, the documents of a release. None of that is garbage, and looking at it takes CPU time from requests
(`python bench/serving.py overload`).
"""

import gc
import sys

THRESHOLDS = 10_000, 20, 50
"""Objects more than before until the youngest are looked at; of these looks, until older ones are too.

Python's own are 700, 10, 10, with which a request that makes thousands of objects causes several looks.
"""


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
