"""The parts that MARVEL and MiMIC share: words as T5 reads them, and the towers that they are built over."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPVisionModel, T5Tokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import LoadedCheckpoint, open_checkpoint
from mirepoix.models.backbones.clip_temperature import published_temperature
from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.losses.objective import Objective
from mirepoix.models.retrievers.marvel import Marvel
from mirepoix.models.retrievers.marvel_config import MarvelConfig
from mirepoix.models.retrievers.mimic import Mimic
from mirepoix.models.retrievers.mimic_config import MimicConfig
from mirepoix.models.retrievers.t5_clip import TokenSequences
from mirepoix.workflows.recipes.registry import recipe


@pytest.fixture(scope="module")
def tokenizer(twin):
    return open_checkpoint(twin("t5_clip")["text"], "text").tokenizer


def test_words_are_read_as_t5_reads_them(tokenizer):
    for text in ("two large blue stars at night", "", "a", "snow  snow"):
        assert TokenSequences(tokenizer, 128)(text) == tokenizer(text)["input_ids"]


def test_text_is_cut_to_its_budget_and_still_ends(tokenizer):
    whole = tokenizer("two large blue stars at night")["input_ids"]
    assert TokenSequences(tokenizer, 5)("two large blue stars at night") == [*whole[:4], tokenizer.eos_token_id]
    assert TokenSequences(tokenizer, len(whole))("two large blue stars at night") == whole


@pytest.mark.parametrize("token", ["</s>", "<pad>", "<extra_id_0>", "<extra_id_1>"])
def test_control_tokens_of_t5_in_a_text_are_letters(token):
    """T5's vocabulary of words holds them as if they were words."""
    letters = [(letter, -5.0) for letter in "▁<>/_abdeiprstx01"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters, ("<extra_id_1>", 0.0), ("<extra_id_0>", 0.0)]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=2)
    *words, end = TokenSequences(tokenizer, 128)(f"a {token} b")
    assert end == tokenizer.eos_token_id
    assert "".join(tokenizer.convert_ids_to_tokens(words)) == f"▁a▁{token}▁b"
    assert all(len(piece) == 1 for piece in tokenizer.convert_ids_to_tokens(words))


def test_a_batch_is_padded_at_the_end_and_has_a_column_without_any_text(tokenizer):
    words = TokenSequences(tokenizer, 128)
    batch = words.batch([[5, 6, 1], [], [7, 1]])
    assert batch["input_ids"].tolist() == [[5, 6, 1], [0, 0, 0], [7, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 0]]
    assert words.batch([[]])["attention_mask"].tolist() == [[0]]


@pytest.mark.parametrize(("retriever", "config"), [(Marvel, MarvelConfig()), (Mimic, MimicConfig())])
def test_towers_of_another_kind_are_refused(retriever, config, twin):
    t5, clip = (open_checkpoint(twin("t5_clip")[name], name) for name in ("text", "vision"))
    bert = open_checkpoint(twin("bert_clip")["text"], "text")
    with pytest.raises(Refused, match=f"{config.ARCHITECTURE}'s text tower is a t5, and the checkpoint holds a bert"):
        retriever(config, bert, clip)
    with pytest.raises(Refused, match="vision tower is a clip_vision_model, and the checkpoint holds a bert"):
        retriever(config, t5, LoadedCheckpoint(bert.model))


@pytest.mark.parametrize(("retriever", "config"), [(Marvel, MarvelConfig()), (Mimic, MimicConfig())])
def test_the_vision_half_of_a_whole_clip_serves_as_well(retriever, config, twin):
    encoder = retriever.build({"text": twin("t5_clip")["text"], "vision": twin("clip")["model"]}, config)
    patches_VPD = encoder.patches()
    assert patches_VPD.shape == (1, 16, encoder.dimension)
    assert not torch.equal(patches_VPD[0, 0], patches_VPD[0, 1])


@pytest.mark.parametrize(("retriever", "config"), [(Marvel, MarvelConfig()), (Mimic, MimicConfig())])
def test_the_matrices_without_decay_are_those_that_marvels_code_takes_for_biases_by_their_names(retriever, config, twin):
    """Its optimizer has no decay on vectors, nor on what has "bn", "ln", "bias" or "logit_scale" in its name."""
    matrices = [name for name, weight in retriever.build(twin("t5_clip"), config).named_parameters() if weight.ndim > 1]
    named = [name for name in matrices if any(part in name for part in ("bn", "ln", "bias", "logit_scale"))]
    assert named == [
        "text.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "text.decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ]
    assert [name for name in matrices if name.endswith(retriever.UNDECAYED)] == named


def with_scale(clip, folder, scale: float, **saved) -> Checkpoint:
    """The twin's CLIP with another scale, in another folder."""
    model = CLIPModel.from_pretrained(clip.name)
    model.logit_scale.data.fill_(scale)
    model.save_pretrained(folder, **saved)
    CLIPImageProcessorPil.from_pretrained(clip.name).save_pretrained(folder)
    return Checkpoint(folder)


@pytest.mark.parametrize(("retriever", "config"), [(Marvel, MarvelConfig()), (Mimic, MimicConfig())])
@pytest.mark.parametrize(("scale", "temperature"), [(4.6052, 0.01), (4.8283, 0.008), (3.912023, 0.02), (2.6592, 0.07)])
def test_it_starts_at_the_temperature_of_a_whole_clip_as_marvels_code_does(retriever, config, scale, temperature, twin, tmp_path):
    """The scale of openai/clip-vit-base-patch32 is 4.6052, the logarithm of 100; that of a CLIP which was trained on may be above."""
    vision = with_scale(twin("clip")["model"], tmp_path / "clip", scale)
    encoder = retriever.build({"text": twin("t5_clip")["text"], "vision": vision}, config)
    assert encoder.temperature == pytest.approx(temperature, rel=1e-4)
    encoder.save(tmp_path / "encoder")
    assert load_encoder(tmp_path / "encoder").temperature == encoder.temperature
    resolved = recipe(config.ARCHITECTURE).instruct.loss.resolved(encoder.temperature, encoder.dimension)
    assert resolved.temperature == encoder.temperature


@pytest.mark.parametrize(("retriever", "config"), [(Marvel, MarvelConfig()), (Mimic, MimicConfig())])
def test_over_an_adapter_of_a_vision_tower_it_starts_at_the_temperature_of_the_clip_under_it(retriever, config, twin, tmp_path):
    clip = with_scale(twin("clip")["model"], tmp_path / "clip", 3.912023)
    tower = CLIPVisionModel.from_pretrained(clip.name)
    adapted = get_peft_model(tower, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    checkpoint = Checkpoint(tmp_path / "adapter", base=str(clip.name))
    assert published_temperature(checkpoint) == pytest.approx(0.02, rel=1e-5)
    encoder = retriever.build({"text": twin("t5_clip")["text"], "vision": checkpoint}, config)
    assert encoder.temperature == pytest.approx(0.02, rel=1e-5)
    merged = adapted.merge_and_unload().eval()
    pixels = torch.rand(1, 3, merged.config.image_size, merged.config.image_size)
    torch.testing.assert_close(encoder.vision.eval()(pixels).last_hidden_state, merged(pixels).last_hidden_state, atol=1e-5, rtol=0)


def test_the_temperature_is_read_of_every_form_that_a_checkpoint_is_published_in(twin, tmp_path):
    clip = twin("clip")["model"]
    sharded = with_scale(clip, tmp_path / "sharded", 3.912023, max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    pickled = with_scale(clip, tmp_path / "pickled", 3.912023)
    torch.save(load_file(tmp_path / "pickled/model.safetensors"), tmp_path / "pickled/pytorch_model.bin")
    (tmp_path / "pickled/model.safetensors").unlink()
    for checkpoint in (sharded, pickled):
        assert published_temperature(checkpoint) == pytest.approx(0.02, rel=1e-5)
        vision = Marvel.build({"text": twin("t5_clip")["text"], "vision": checkpoint}, MarvelConfig())
        assert vision.temperature == pytest.approx(0.02, rel=1e-5)


@pytest.mark.parametrize(("retriever", "config"), [(Marvel, MarvelConfig()), (Mimic, MimicConfig())])
def test_over_a_vision_tower_alone_it_has_no_temperature_and_a_training_has_to_name_one(retriever, config, twin):
    encoder = retriever.build(twin("t5_clip"), config)
    assert encoder.temperature is None and published_temperature(twin("t5_clip")["vision"]) is None
    with pytest.raises(Refused, match=r"loss.temperature is null and the encoder has none: .* its checkpoint brings none; give a number"):
        Objective(temperature=None, learned_temperature=True).resolved(encoder.temperature, encoder.dimension)
