"""The most operations that a GPU could do in a second, as its vendor states them; docs/training.md names the sheets.

Of matrix products without sparsity: of bfloat16 with float32 sums on tensor cores, and of float32 without them, as torch multiplies unless
it is told to round.
"""

import re

PEAKS: dict[str, dict[str, float]] = {  # by the words that a GPU's name has; of several that fit, the first
    "H100 PCIe": {"bf16": 756e12, "fp32": 51e12},
    "H100 NVL": {"bf16": 835e12, "fp32": 60e12},
    "H200 NVL": {"bf16": 835e12, "fp32": 60e12},
    "H100": {"bf16": 989e12, "fp32": 67e12},
    "H200": {"bf16": 989e12, "fp32": 67e12},
    "B200": {"bf16": 2250e12},
    "A100": {"bf16": 312e12, "fp32": 19.5e12},
    "L40S": {"bf16": 362e12, "fp32": 91.6e12},
    "L4": {"bf16": 121e12, "fp32": 30.3e12},
    "A10": {"bf16": 125e12, "fp32": 31.2e12},
    "RTX 4090": {"bf16": 165.2e12, "fp32": 82.6e12},
    "T4": {"fp32": 8.1e12},
}
OTHERS = {"D", "Laptop", "MIG"}
"""Words of a name that say that it is another chip, or a slice of one."""


def peak(name: str, dtype: str) -> float | None:
    """The peak of a GPU by the name that its driver gives, in operations a second; None where it is not known."""
    words = set(re.split(r"[\s-]+", name))
    for known, rates in PEAKS.items():
        if set(known.split()) <= words and not words & OTHERS:
            return rates.get(dtype)
    return None
