"""The peak of a GPU is found by the words of its name, and no other chip's or slice's is taken for it."""

import pytest

from mirepoix.components.training.watching.peaks import peak


@pytest.mark.parametrize(
    ("name", "dtype", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA H100 NVL", "bf16", 835e12),
        ("NVIDIA H200", "bf16", 989e12),
        ("NVIDIA A100-SXM4-40GB", "bf16", 312e12),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("NVIDIA A10", "bf16", 125e12),
        ("NVIDIA A10G", "bf16", None),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40", "bf16", None),
        ("NVIDIA B200", "bf16", 2250e12),
        ("NVIDIA B200", "fp32", None),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA GeForce RTX 4090 D", "bf16", None),
        ("Tesla T4", "bf16", None),
        ("Tesla T4", "fp32", 8.1e12),
    ],
)
def test_a_peak_is_found_by_the_words_of_a_name(name, dtype, rate):
    assert peak(name, dtype) == rate
