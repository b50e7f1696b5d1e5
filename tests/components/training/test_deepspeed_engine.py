"""DeepSpeed's settings, and whole weights out of engines of every stage."""

import json
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mirepoix.components.training import deepspeed_engine
from mirepoix.components.training.deepspeed_engine import Numbers, read_settings, settle
from mirepoix.models.errors import Refused

NUMBERS = Numbers(
    stage=2,
    world=4,
    micro_batch=8,
    accumulation=3,
    max_grad_norm=1.0,
    learning_rate=1e-4,
    weight_decay=0.1,
    betas=(0.9, 0.98),
    epsilon=1e-6,
    bf16=True,
    warmup=7,
    total=90,
    scheduler="linear",
)
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
    settings = settle(EVERY_AUTO, NUMBERS, width=1024)
    assert "auto" not in json.dumps(settings)
    assert settings["train_batch_size"] == 4 * 8 * 3 and settings["train_micro_batch_size_per_gpu"] == 8
    assert settings["gradient_accumulation_steps"] == 3 and settings["gradient_clipping"] == 1.0
    assert settings["bf16"] == {"enabled": True} and settings["fp16"] == {"enabled": False, "loss_scale": 0}
    assert settings["optimizer"]["params"] == {"lr": 1e-4, "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.1, "torch_adam": True}
    schedule = {"warmup_min_lr": 0.0, "warmup_max_lr": 1e-4, "warmup_num_steps": 7, "total_num_steps": 90}
    assert settings["scheduler"] == {"type": "WarmupDecayLR", "params": schedule}
    zeroed = settings["zero_optimization"]
    assert zeroed["stage"] == 2 and zeroed["overlap_comm"] is True and zeroed["reduce_bucket_size"] == 1024 * 1024
    assert EVERY_AUTO["zero_optimization"]["stage"] == "auto", "what was given is left as it was"


def test_no_file_means_settings_without_auto():
    settings = settle({}, NUMBERS, width=64)
    assert "auto" not in json.dumps(settings) and "scheduler" not in settings
    assert settings["zero_optimization"]["stage"] == 2 and settings["bf16"]["enabled"] is True
    assert settle({"zero_optimization": {"overlap_comm": False}}, NUMBERS, 64)["zero_optimization"] == {"overlap_comm": False, "stage": 2}


def test_what_a_file_says_beyond_the_run_is_kept():
    given = {
        "optimizer": {"type": "AdamW", "params": {"amsgrad": True}},
        "steps_per_print": 5,
        "zero_optimization": {"reduce_scatter": False},
    }
    settings = settle(given, NUMBERS, width=64)
    assert settings["optimizer"]["params"]["amsgrad"] is True and settings["optimizer"]["params"]["lr"] == 1e-4
    assert settings["steps_per_print"] == 5 and settings["zero_optimization"]["reduce_scatter"] is False


def test_an_optimizer_that_is_no_adam_gets_no_numbers_of_adams():
    assert settle({"optimizer": {"type": "SGD"}}, NUMBERS, 64)["optimizer"]["params"] == {"lr": 1e-4, "weight_decay": 0.1}


def test_a_number_that_agrees_with_the_run_may_be_written():
    assert settle({"train_micro_batch_size_per_gpu": 8, "gradient_clipping": 1}, NUMBERS, 64)["train_micro_batch_size_per_gpu"] == 8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_micro_batch_size_per_gpu": 16}, r"train_micro_batch_size_per_gpu = 16, the run says 8 \(per_device_train_batch_size\)"),
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
        ({"zero_optimization": {"sub_group_size": "auto"}}, r'zero_optimization.sub_group_size = "auto", which nothing resolves'),
        ({"aio": {"block_size": "auto"}}, r'aio.block_size = "auto", which nothing resolves'),
    ],
)
def test_a_contradiction_or_an_unknown_auto_is_refused_by_its_key(given, message):
    with pytest.raises(Refused, match=message):
        settle(given, NUMBERS, width=64)


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_file_that_is_no_settings_is_refused_by_its_path(tmp_path, content):
    path = tmp_path / "zero.json"
    if content:
        path.write_text(content)
    with pytest.raises(Refused, match=r"zero\.json"):
        read_settings(str(path))


def test_no_path_is_no_settings():
    assert read_settings(None) == {}


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine"])
def test_deepspeed_knows_the_schedulers_by_the_names_that_are_checked(scheduler):
    from deepspeed.runtime.lr_schedules import VALID_LR_SCHEDULES

    settings = {"scheduler": {"type": deepspeed_engine.SCHEDULERS[scheduler], "params": {}}}
    assert settle(settings, replace(NUMBERS, scheduler=scheduler), 64)["scheduler"]["type"] in VALID_LR_SCHEDULES


def toy() -> torch.nn.Module:
    torch.manual_seed(3)
    module = torch.nn.Sequential(torch.nn.Linear(6, 40), torch.nn.LayerNorm(40), torch.nn.Linear(40, 33), torch.nn.Linear(33, 3))
    module[2].requires_grad_(False)
    return module


def _rank(rank: int, world: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    deepspeed_engine.prepare()
    results = {}
    for stage in (0, 1, 2, 3):
        for bf16 in (False, True) if stage else (False,):
            numbers = replace(NUMBERS, stage=stage, world=world, micro_batch=4, accumulation=1, bf16=bf16, learning_rate=0.01)
            engine = deepspeed_engine.start(toy(), settle({}, numbers, 8), lambda step: 1.0)
            norms = []
            for step in range(3):
                torch.manual_seed(10 * step + rank)
                inputs = torch.randn(4, 6)
                engine.backward(engine(inputs.to(next(engine.module.parameters()).dtype)).float().square().mean())
                norms.append(deepspeed_engine.step(engine))
            deepspeed_engine.save(engine, Path(folder) / f"{stage}-{bf16}")
            results[stage, bf16] = (deepspeed_engine.whole_weights(engine), norms)
    if rank == 0:
        Path(folder, "results.pickle").write_bytes(pickle.dumps(results))
    else:
        assert not any(weights for weights, _ in results.values())
    dist.destroy_process_group()
    os._exit(0)  # at a usual exit gloo's threads may outlive what they stand on, and abort a process whose work is done


@pytest.fixture(scope="module")
def engines(tmp_path_factory) -> tuple[Path, dict]:
    """Whole weights and gradient norms of two ranks, by stage and precision, and the folder of their checkpoints."""
    folder = tmp_path_factory.mktemp("engines")
    mp.spawn(_rank, (2, str(folder)), nprocs=2)
    return folder, pickle.loads((folder / "results.pickle").read_bytes())


def plain() -> tuple[dict[str, torch.Tensor], list[float]]:
    """The same steps without DeepSpeed."""
    module, norms = toy(), []
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in learning if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=NUMBERS.betas, eps=NUMBERS.epsilon)
    for step in range(3):
        losses = []
        for rank in range(2):
            torch.manual_seed(10 * step + rank)
            losses.append(module(torch.randn(4, 6)).square().mean())
        optimizer.zero_grad()
        (sum(losses) / 2).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(learning, 1.0)))
        optimizer.step()
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}, norms


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_steps_as_plain_torch_does_and_leaves_frozen_weights_alone(engines, stage):
    weights, norms = engines[1][stage, False]
    expected, expected_norms = plain()
    assert set(weights) == set(expected) and not any(name.startswith("2.") for name in weights)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_whole_weights_are_those_of_the_shards_bit_for_bit(engines, stage, bf16):
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    folder, results = engines
    shards = get_fp32_state_dict_from_zero_checkpoint(
        str(folder / f"{stage}-{bf16}"), tag=deepspeed_engine.TAG, exclude_frozen_parameters=True
    )
    weights, _ = results[stage, bf16]
    assert set(weights) == set(shards)
    for name, weight in weights.items():
        assert weight.dtype == torch.float32 and torch.equal(weight, shards[name]), name


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_keeps_more_of_the_weights_than_bf16_holds(engines, stage):
    weights, norms = engines[1][stage, True]
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())
    assert norms == pytest.approx(plain()[1], rel=0.1)


def test_importing_the_module_does_not_import_deepspeed():
    code = "import sys, mirepoix.components.training.deepspeed_engine; sys.exit('deepspeed' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-W", "ignore", "-c", code]) == 0
