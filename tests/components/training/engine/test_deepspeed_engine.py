"""Engines of every ZeRO stage step as plain torch does, and their whole weights are those of their shards."""

import json
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mirepoix.components.training.engine import deepspeed_engine, deepspeed_settings
from mirepoix.components.training.engine.chunked_encoder import ChunkedEncoder
from mirepoix.components.training.engine.deepspeed_settings import resolved
from mirepoix.components.training.engine.snapshot import Copies
from mirepoix.models.backbones.tuning_config import Lora
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.losses.objective import Objective
from mirepoix.models.retrievers.marvel import Marvel
from mirepoix.models.retrievers.marvel_config import MarvelConfig, MarvelTuning
from tests.components.training.run_numbers import NUMBERS
from tests.models.conftest import SIZES, WORDS
from tests.ranks import run_ranks


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine"])
def test_deepspeed_has_schedulers_of_the_names_that_settings_are_checked_against(scheduler):
    from deepspeed.runtime.lr_schedules import VALID_LR_SCHEDULES

    settings = {"scheduler": {"type": deepspeed_settings.SCHEDULERS[scheduler], "params": {}}}
    assert resolved(settings, replace(NUMBERS, scheduler=scheduler), 64)["scheduler"]["type"] in VALID_LR_SCHEDULES


def toy() -> torch.nn.Module:
    torch.manual_seed(3)
    module = torch.nn.Sequential(torch.nn.Linear(6, 40), torch.nn.LayerNorm(40), torch.nn.Linear(40, 33), torch.nn.Linear(33, 3))
    module[2].requires_grad_(False)
    return module


UNDECAYED = ("3.weight",)
STEPS = 3


def _engine(stage: int, world: int, bf16: bool = False, **options: bool) -> Any:
    numbers = replace(NUMBERS, stage=stage, world=world, batch=8, accumulation=1, bf16=bf16, learning_rate=0.01)
    return deepspeed_engine.start(toy(), resolved({}, numbers, 8), lambda step: 1.0, UNDECAYED, **options)


def _inputs(step: int, rank: int) -> torch.Tensor:
    torch.manual_seed(10 * step + rank)
    return torch.randn(4, 6)


def _stepped(engine: Any, inputs: torch.Tensor) -> float:
    engine.backward(engine(inputs.to(next(engine.module.parameters()).dtype)).float().square().mean())
    return deepspeed_engine.step(engine)


def _join(rank: int, world: int, rendezvous: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    deepspeed_engine.prepare()


def _rank(rank: int, world: int, folder: str) -> None:
    _join(rank, world, f"{folder}/rendezvous")
    results = {}
    for stage in (0, 1, 2, 3):
        for bf16 in (False, True) if stage else (False,):
            engine = _engine(stage, world, bf16)
            norms = [_stepped(engine, _inputs(step, rank)) for step in range(STEPS)]
            deepspeed_engine.save(engine, Path(folder) / f"{stage}-{bf16}")
            results[stage, bf16] = (deepspeed_engine.whole_weights(engine), norms)
            copied = deepspeed_engine.snapshot(engine, Path(folder) / "of no states", Copies())
            _stepped(engine, _inputs(STEPS, rank))
            if rank == 0:
                torch.save(copied, Path(folder) / f"{stage}-{bf16} copied.pt")
    if rank == 0:
        Path(folder, "results.pickle").write_bytes(pickle.dumps(results))
        Path(folder, "imported.json").write_text(json.dumps(sorted(sys.modules)))
    else:
        assert not any(weights for weights, _ in results.values())
    dist.destroy_process_group()
    os._exit(0)  # at a normal exit, gloo's threads may outlive what they use and abort a process that has finished its work


def _in_parts(rank: int, world: int, folder: str) -> None:
    """The first step in chunks of two rows: by one backward pass, by one for each chunk after its forward pass, and by one for each after
    all forward passes."""
    _join(rank, world, f"{folder}/rendezvous of parts")
    results = {}
    for stage in (0, 1, 2, 3):
        for way in ("one", "in turn", "at the end"):
            engine = _engine(stage, world)
            chunks = _inputs(0, rank).split(2)
            losses = (engine(chunk).square().mean() / len(chunks) for chunk in chunks)
            for loss in losses if way == "in turn" else [sum(losses)] if way == "one" else [*losses]:
                engine.backward(loss)
            results[stage, way] = deepspeed_engine.step(engine)
    if rank == 0:
        Path(folder, "parts.pickle").write_bytes(pickle.dumps(results))
    dist.destroy_process_group()
    os._exit(0)


def _alone(rank: int, world: int, folder: str) -> None:
    """A further step, on the batch of both ranks, from the checkpoints of two ranks."""
    _join(rank, world, f"{folder}/rendezvous of one")
    results = {}
    for stage in (0, 1, 2, 3):
        written = Path(folder) / f"{stage}-False"
        engine = _engine(stage, world, **({"universal": True} if stage else {}))
        if stage:
            deepspeed_engine.reshape(written, stage, Path(folder) / f"reshaped {stage}")
        deepspeed_engine.load(engine, Path(folder) / f"reshaped {stage}" if stage else written)
        decays = [group["weight_decay"] for group in engine.basic_optimizer.param_groups]
        _stepped(engine, torch.cat([_inputs(STEPS, rank) for rank in range(2)]))
        results[stage] = (deepspeed_engine.whole_weights(engine), decays)
    Path(folder, "alone.pickle").write_bytes(pickle.dumps(results))
    dist.destroy_process_group()
    os._exit(0)


@pytest.fixture(scope="module")
def engines(tmp_path_factory) -> tuple[Path, dict]:
    """Whole weights and gradient norms of two ranks, by stage and precision, and the folder of their checkpoints."""
    folder = tmp_path_factory.mktemp("engines")
    run_ranks(_rank, 2, str(folder))
    return folder, pickle.loads((folder / "results.pickle").read_bytes())


def plain(steps: int = STEPS) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The same steps without DeepSpeed; of the two matrices that are trained, the second does not decay."""
    module, norms = toy(), []
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    first, *others = learning
    groups = [{"params": [first], "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=NUMBERS.betas, eps=NUMBERS.epsilon)
    for step in range(steps):
        losses = [module(_inputs(step, rank)).square().mean() for rank in range(2)]
        optimizer.zero_grad()
        (sum(losses) / 2).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(learning, 1.0)))
        optimizer.step()
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}, norms


@pytest.fixture(scope="module")
def t5_clip(tmp_path_factory):
    return make_twin(tmp_path_factory.mktemp("t5_clip"), "t5_clip", WORDS * 20, SIZES, seed=0)


@pytest.mark.parametrize("learned", [False, True])
def test_position_biases_of_t5_do_not_decay_with_a_learned_temperature_or_without(t5_clip, learned):
    encoder = Marvel.build(t5_clip, MarvelConfig()).tune(MarvelTuning())
    module = ChunkedEncoder(encoder, Objective(temperature=0.07, learned_temperature=learned))
    matrices = {name for name, weight in module.named_parameters() if weight.requires_grad and weight.ndim > 1}
    assert matrices - deepspeed_engine.decaying(module, encoder.UNDECAYED) == {
        "encoder.text.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.text.decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    }


def test_adapters_of_t5_decay_all_and_nothing_else_is_trained(t5_clip):
    tuning = MarvelTuning(towers=("text",), lora=Lora(2, 4, 0.0))
    encoder = Marvel.build(t5_clip, MarvelConfig()).tune(tuning)
    module = ChunkedEncoder(encoder, Objective(temperature=0.07, learned_temperature=True))
    trained = {name for name, weight in module.named_parameters() if weight.requires_grad}
    decaying = deepspeed_engine.decaying(module, encoder.UNDECAYED)
    assert trained - decaying == {"temperature.moved"}
    assert decaying and all(".lora_A." in name or ".lora_B." in name for name in decaying)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_steps_as_plain_torch_does_and_leaves_frozen_weights_alone(engines, stage):
    weights, norms = engines[1][stage, False]
    expected, expected_norms = plain()
    assert set(weights) == set(expected) and not any(name.startswith("2.") for name in weights)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=1e-4)


def test_several_backward_passes_of_one_step_are_wrong_with_sharded_gradients_and_no_error_says_so(tmp_path):
    """Why a step in chunks has one backward pass; if this fails, DeepSpeed has learnt to do without."""
    run_ranks(_in_parts, 2, str(tmp_path))
    norms, (expected, *_) = pickle.loads((tmp_path / "parts.pickle").read_bytes()), plain()[1]
    wrong = {key for key, norm in norms.items() if norm != pytest.approx(expected, rel=1e-4)}
    assert len(norms) == 12 and wrong == {(1, "in turn"), (2, "in turn"), (1, "at the end"), (2, "at the end"), (3, "at the end")}, norms


def test_what_does_not_decay_is_the_same_after_a_checkpoint_of_other_ranks(engines):
    folder, _ = engines
    run_ranks(_alone, 1, str(folder))
    expected, _ = plain(STEPS + 1)
    for stage, (weights, decays) in pickle.loads((folder / "alone.pickle").read_bytes()).items():
        assert decays == [0.1, 0.0], stage
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=1e-4, msg=lambda text, at=(stage, name): f"{at}: {text}")


def test_no_engine_imports_the_compiler_of_torch(engines):
    """DeepSpeed compiles the kernels of its Muon optimizer where any engine starts, which takes two CPU seconds."""
    imported = json.loads((engines[0] / "imported.json").read_text())
    assert "deepspeed.runtime.zero.muon.original_muon" in imported and "torch._inductor.compile_fx" not in imported


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
def test_master_weights_under_bf16_are_more_precise_than_bf16(engines, stage):
    weights, norms = engines[1][stage, True]
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())
    assert norms == pytest.approx(plain()[1], rel=0.1)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_copied_shard_is_the_one_that_deepspeed_writes_and_does_not_change_with_further_steps(engines, stage, bf16):
    folder, _ = engines
    if stage or not bf16:
        copied = torch.load(folder / f"{stage}-{bf16} copied.pt", weights_only=False)
        assert len(copied) == (2 if stage else 1)
        for name, state in copied.items():
            assert_same(state, torch.load(folder / f"{stage}-{bf16}" / name, weights_only=False))


def assert_same(copied: Any, written: Any) -> None:
    if isinstance(written, torch.Tensor):
        assert copied.dtype == written.dtype and torch.equal(copied, written)
    elif isinstance(written, dict):
        assert list(copied) == list(written)
        for name in written:
            assert_same(copied[name], written[name])
    elif isinstance(written, list | tuple) and type(written) is not torch.Size:
        assert len(copied) == len(written)
        for one, other in zip(copied, written, strict=True):
            assert_same(one, other)
    else:
        assert type(copied) is type(written) and (copied == written or type(written).__eq__ is object.__eq__)


def test_importing_the_module_does_not_import_deepspeed():
    code = "import sys, mirepoix.components.training.engine.deepspeed_engine; sys.exit('deepspeed' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-W", "ignore", "-c", code]) == 0
