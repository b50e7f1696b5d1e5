"""Every "auto" in DeepSpeed's settings is resolved, and settings that contradict the run are refused."""

import json

import pytest

from mirepoix.components.training.engine.deepspeed_settings import read_settings, resolved
from mirepoix.models.errors import Refused
from tests.components.training.run_numbers import NUMBERS

EVERY_AUTO = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto", "loss_scale": 0},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto", "total_num_steps": "auto"},
    },
    "zero_optimization": {
        "stage": "auto",
        "overlap_comm": True,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_gather_16bit_weights_on_model_save": "auto",
    },
}


def test_every_auto_of_a_users_file_is_resolved():
    settings = resolved(EVERY_AUTO, NUMBERS, width=1024)
    assert "auto" not in json.dumps(settings)
    assert "train_batch_size" not in settings and settings["train_micro_batch_size_per_gpu"] == 8
    assert settings["gradient_accumulation_steps"] == 3 and settings["gradient_clipping"] == 1.0
    assert settings["bf16"] == {"enabled": True} and settings["fp16"] == {"enabled": False, "loss_scale": 0}
    assert settings["optimizer"]["params"] == {"lr": 1e-4, "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.1, "torch_adam": True}
    schedule = {"warmup_min_lr": 0.0, "warmup_max_lr": 1e-4, "warmup_num_steps": 7, "total_num_steps": 90}
    assert settings["scheduler"] == {"type": "WarmupDecayLR", "params": schedule}
    zeroed = settings["zero_optimization"]
    assert zeroed["stage"] == 2 and zeroed["overlap_comm"] is True and zeroed["reduce_bucket_size"] == 1024 * 1024
    assert EVERY_AUTO["zero_optimization"]["stage"] == "auto", "the argument is not changed"


def test_without_a_file_the_default_settings_are_resolved():
    settings = resolved({}, NUMBERS, width=64)
    assert "auto" not in json.dumps(settings) and "scheduler" not in settings
    assert settings["zero_optimization"]["stage"] == 2 and settings["bf16"]["enabled"] is True
    assert settings["zero_optimization"]["stage3_max_reuse_distance"] == 64**3
    assert resolved({}, NUMBERS, width=8192)["zero_optimization"]["stage3_max_reuse_distance"] == 10**9
    assert resolved({"zero_optimization": {"overlap_comm": False}}, NUMBERS, 64)["zero_optimization"] == {
        "overlap_comm": False,
        "stage": 2,
    }


def test_settings_that_no_field_of_the_run_sets_are_kept():
    given = {
        "optimizer": {"type": "AdamW", "params": {"amsgrad": True}},
        "steps_per_print": 5,
        "zero_optimization": {"reduce_scatter": False},
    }
    settings = resolved(given, NUMBERS, width=64)
    assert settings["optimizer"]["params"]["amsgrad"] is True and settings["optimizer"]["params"]["lr"] == 1e-4
    assert settings["steps_per_print"] == 5 and settings["zero_optimization"]["reduce_scatter"] is False


def test_an_optimizer_other_than_adam_gets_no_betas_and_no_epsilon():
    assert resolved({"optimizer": {"type": "SGD"}}, NUMBERS, 64)["optimizer"]["params"] == {"lr": 1e-4, "weight_decay": 0.1}


def test_a_number_that_agrees_with_the_run_is_accepted():
    assert resolved({"train_micro_batch_size_per_gpu": 8, "gradient_clipping": 1}, NUMBERS, 64)["train_micro_batch_size_per_gpu"] == 8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"train_micro_batch_size_per_gpu": 16},
            r"train_micro_batch_size_per_gpu = 16, the run says 8 \(global_batch_size 32 on 4 workers\)",
        ),
        ({"train_batch_size": 8}, r"train_batch_size = 8, the run says 96"),
        ({"zero_optimization": {"stage": 3}}, r"zero_optimization.stage = 3, the run says 2 \(zero_stage\)"),
        ({"bf16": {"enabled": False}}, r"bf16.enabled = False, the run says True"),
        ({"fp16": {"enabled": True}}, r"fp16.enabled = True, .* use bf16"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1.0}}}, r"optimizer.params.lr = 1.0, the run says 0.0001"),
        (
            {"optimizer": {"type": "AdamW", "params": {"betas": [0.9, 0.95]}}},
            r"betas = \[0.9, 0.95\], the run says \[0.9, 0.98\]",
        ),
        ({"scheduler": {"type": "WarmupCosineLR", "params": {}}}, r"scheduler.type = 'WarmupCosineLR', the run says 'WarmupDecayLR'"),
        ({"zero_optimization": {"sub_group_size": "auto"}}, r'zero_optimization.sub_group_size = "auto", which has no value in this run'),
        ({"aio": {"block_size": "auto"}}, r'aio.block_size = "auto", which has no value in this run'),
    ],
)
def test_a_contradiction_or_an_unknown_auto_is_refused_with_its_key(given, message):
    with pytest.raises(Refused, match=message):
        resolved(given, NUMBERS, width=64)


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_file_that_holds_no_settings_is_refused_with_its_path(tmp_path, content):
    path = tmp_path / "zero.json"
    if content:
        path.write_text(content)
    with pytest.raises(Refused, match=r"zero\.json"):
        read_settings(str(path))


def test_without_a_path_there_are_no_settings():
    assert read_settings(None) == {}
