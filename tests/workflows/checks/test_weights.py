"""Weights are counted from headers and sizes alone."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from mirepoix.workflows.checks.weights import count_weights


def test_weights_are_counted_in_headers_over_all_files_and_modules(tmp_path):
    save_file(
        {"a": torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.float16), "scale": torch.tensor(1.0)}, tmp_path / "model.safetensors"
    )
    (tmp_path / "2_Dense").mkdir()
    save_file({"c": torch.zeros(2, 2)}, tmp_path / "2_Dense" / "model.safetensors")
    assert count_weights(tmp_path) == 12 + 5 + 1 + 4


def test_an_adapter_beside_a_model_is_not_counted_twice(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    save_file({"a": torch.zeros(90)}, tmp_path / "adapter_model.safetensors")
    assert count_weights(tmp_path) == 3


def test_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(400))
    assert count_weights(tmp_path) == 100


@pytest.mark.parametrize(
    "content",
    [b"", b"short", struct.pack("<Q", 1 << 60), struct.pack("<Q", 3) + b"{]}", struct.pack("<Q", 20) + json.dumps({"a": 3}).encode()],
    ids=["empty", "short", "huge", "no JSON", "no shape"],
)
def test_of_files_that_cannot_be_read_nothing_is_known(content, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert count_weights(tmp_path) is None


def test_of_a_folder_without_weights_nothing_is_known(tmp_path):
    assert count_weights(tmp_path) is None
