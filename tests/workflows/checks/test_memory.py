"""What a training keeps of each weight."""

import pytest

from mirepoix.workflows.checks.memory import bytes_of_a_weight
from mirepoix.workflows.recipes.registry import resolve


@pytest.mark.parametrize(
    ("settings", "whole", "expected"),
    [
        ([], True, 16),
        (["instruct.bf16=true"], True, 16),
        (["instruct.num_workers=4"], True, 10),
        (["instruct.num_workers=4", "instruct.zero_stage=2"], True, 7),
        (["instruct.num_workers=4", "instruct.zero_stage=3"], True, 4),
        (["instruct.num_workers=4", "instruct.zero_stage=0"], True, 16),
        ([], False, 4),
        (["instruct.bf16=true"], False, 2),
    ],
)
def test_bytes_of_a_weight_by_zero_stage_and_precision(settings, whole, expected):
    config = resolve("quickstart", settings).instruct
    assert bytes_of_a_weight(config, whole, config.num_workers) == expected
