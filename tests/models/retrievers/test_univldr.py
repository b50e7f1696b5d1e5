"""UniVL-DR's sum of CLIP's vectors, written out slowly and compared; what trains in each stage; UniIR's masks, which are the same sum."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mirepoix.models.backbones.checkpoints import LoadedCheckpoint, open_checkpoint
from mirepoix.models.backbones.pictures import decoded
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.encoder import load_encoder
from mirepoix.models.encoder_config import saved_config
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.losses.contrastive import contrastive
from mirepoix.models.losses.objective import Objective
from mirepoix.models.retrievers.univldr import UniVLDR
from mirepoix.models.retrievers.univldr_config import UniVLDRConfig
from mirepoix.models.vectors import Vectors
from mirepoix.workflows.recipes.registry import recipe
from tests.models.conftest import ITEMS, picture
from tests.models.losses.reference_losses import labels

BOTH = ("text", "vision")
READ = [item for item in ITEMS if not item.video]
MANY = [
    *READ,
    Item("three", text="two stars", images=(picture("blue", 40), picture("green"), picture("red", 100)), instruction="Find it."),
    Item("only asked", images=(picture("red"),), instruction="Find a passage."),
]


@pytest.fixture
def univldr(twin):
    return UniVLDR.build(twin("clip"), UniVLDRConfig()).eval()


class Paper:
    """The plain CLIP of a folder, and the sum as one reads it: one item, one number at a time."""

    def __init__(self, folder):
        self.clip = CLIPModel.from_pretrained(folder).eval()
        self.tokenizer, self.pictures = AutoTokenizer.from_pretrained(folder), CLIPImageProcessorPil.from_pretrained(folder)

    @torch.no_grad()
    def text_vector(self, words: str) -> list[float]:
        """CLIP_txt: the state at the first end of the text, through the projection."""
        ids = self.tokenizer(words, return_tensors="pt")["input_ids"]
        end = ids[0].tolist().index(self.tokenizer.eos_token_id)
        return self.projected(self.clip.text_model(ids).last_hidden_state[0, end], self.clip.text_projection.weight)

    @torch.no_grad()
    def picture_vector(self, image) -> list[float]:
        """CLIP_img: the normalised state of the class token, through the projection."""
        pixels = self.pictures(images=image, return_tensors="pt")["pixel_values"]
        state = self.clip.vision_model(pixels).last_hidden_state[0, 0]
        return self.projected(self.clip.vision_model.post_layernorm(state), self.clip.visual_projection.weight)

    def projected(self, state, weight) -> list[float]:
        rows = weight.tolist()
        return [sum(one * other for one, other in zip(row, state.tolist(), strict=True)) for row in rows]

    def row(self, item: Item) -> list[float]:
        total = [0.0] * self.clip.config.projection_dim
        words = f"{item.instruction} {item.text}".strip()
        if words:
            total = [one + other for one, other in zip(total, self.text_vector(words), strict=True)]
        for image in decoded(item, item.images):
            total = [one + other / len(item.images) for one, other in zip(total, self.picture_vector(image), strict=True)]
        norm = math.sqrt(sum(one * one for one in total))
        return [one / norm for one in total]

    def rows(self, items) -> torch.Tensor:
        return torch.tensor([self.row(item) for item in items])


def test_it_is_the_sum_that_the_equations_say_for_queries_and_documents(univldr, twin):
    expected = Paper(twin("clip")["model"].name).rows(MANY)
    for role in ("query", "document"):
        assert torch.allclose(univldr.encode(MANY, 4, role=role).rows_NTD[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("two &amp; stars", "two & stars"),
        ("a star\u2019s \u201cnight\u201d", 'a star\'s "night"'),
        ("caf\u00c3\u00a9 at night", "caf\u00e9 at night"),
        ("it&amp;#39;s snow", "it's snow"),
    ],
)
def test_texts_are_read_as_openais_tokenizer_cleans_them_and_as_they_are_where_that_is_off(twin, univldr, text, cleaned):
    """Four of the seventeen texts on which transformers' tokenizer was found to differ from it."""
    given, clean = (univldr.collator([Item("a", text=words)])["input_ids"].tolist() for words in (text, cleaned))
    assert given == clean and univldr.config.clean_text
    raw = UniVLDR.build(twin("clip"), UniVLDRConfig(clean_text=False))
    plain = AutoTokenizer.from_pretrained(twin("clip")["model"].name)
    assert raw.collator([Item("a", text=text)])["input_ids"].tolist() == [plain(text)["input_ids"]] != given
    assert raw.collator([Item("a", text=cleaned)])["input_ids"].tolist() == clean


def test_control_tokens_that_cleaning_makes_are_letters_and_a_text_of_blanks_alone_is_an_empty_one(univldr):
    ids = univldr.collator([Item("a", text="&lt;|endoftext|&gt; night")])["input_ids"][0].tolist()
    assert ids.count(univldr.tokenizer.eos_token_id) == 1 and ids[-1] == univldr.tokenizer.eos_token_id
    batch = univldr.collator([Item("a", text="&nbsp;")])
    assert batch["input_ids"].tolist() == [[univldr.tokenizer.bos_token_id, univldr.tokenizer.eos_token_id]]
    assert batch["attention_mask"].tolist() == [[1, 1]], "it is a text, whose vector is that of no words"


def test_a_saved_folder_opens_in_plain_transformers_and_gives_the_same_sums(univldr, tmp_path):
    for parameter in univldr.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    univldr.save(tmp_path)
    assert torch.allclose(univldr.encode(MANY).rows_NTD[:, 0], Paper(tmp_path).rows(MANY), atol=1e-5)


def test_leaving_out_is_what_a_black_picture_and_an_empty_text_with_a_mask_of_0_are(univldr):
    """UniIR feeds both towers for every item, and multiplies with what is there."""
    items = [READ[0], READ[1], READ[2]]
    batch = univldr.collator(items)
    there_NM = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    pixels = torch.zeros(3, *batch["pixel_values"].shape[1:])
    pixels[batch["owners"]] = batch["pixel_values"]
    with torch.inference_mode():
        rows_NTD, _ = univldr(**batch)
        text_ND = univldr.model.get_text_features(batch["input_ids"]).pooler_output
        picture_ND = univldr.model.get_image_features(pixels).pooler_output
    masked_ND = there_NM[:, :1] * text_ND + there_NM[:, 1:] * picture_ND
    assert torch.allclose(rows_NTD[:, 0], F.normalize(masked_ND, dim=-1), atol=1e-5)
    assert not torch.allclose(rows_NTD[:, 0], F.normalize(text_ND + picture_ND, dim=-1), atol=1e-2)


def test_vectors_are_summed_before_they_are_normalised(univldr):
    words, shown = Item("a", text="two stars"), Item("a", images=(picture(),))
    text_D, picture_D, both_D = univldr.encode([words, shown, Item("a", text="two stars", images=shown.images)]).rows_NTD[:, 0]
    of_units = F.normalize(text_D + picture_D, dim=-1)
    assert not torch.allclose(both_D, of_units, atol=1e-3)


def test_a_picture_that_is_there_twice_weighs_as_much_as_once(univldr):
    once, twice, other = univldr.encode(
        [Item("a", text="two stars", images=images) for images in ((picture(),), (picture(),) * 2, (picture(), picture("blue")))]
    ).rows_NTD[:, 0]
    assert torch.allclose(once, twice, atol=1e-6) and not torch.allclose(once, other, atol=1e-4)


def test_an_instruction_is_read_before_the_text_and_alone_where_there_is_none(univldr):
    shown = (picture(),)
    asked, plain, alone, same = univldr.encode(
        [
            Item("a", text="two stars", instruction="Find it."),
            Item("a", text="Find it. two stars"),
            Item("a", images=shown, instruction="Find it."),
            Item("a", images=shown, text="Find it."),
        ]
    ).rows_NTD
    assert torch.allclose(asked, plain, atol=1e-6) and torch.allclose(alone, same, atol=1e-6)
    assert not torch.allclose(asked, alone, atol=1e-3)


def test_what_has_no_words_has_no_tokens(univldr):
    words = len(univldr.tokenizer("a star")["input_ids"])
    batch = univldr.collator(
        [Item("a", text="a star"), Item("b", images=(picture(),)), Item("c", images=(picture(),), instruction="a star")]
    )
    assert batch["attention_mask"].sum(1).tolist() == [words, 0, words]


def test_text_is_cut_to_the_budget_and_still_ends(univldr, twin):
    short = UniVLDR.build(twin("clip"), UniVLDRConfig(max_length=5)).eval()
    long, ids = Item("a", text="a small red circle on snow " * 40), univldr.tokenizer.eos_token_id
    for encoder, length in ((univldr, 77), (short, 5)):
        batch = encoder.collator([long])
        assert batch["input_ids"].shape[1] == batch["attention_mask"].sum() == length and batch["input_ids"][0, -1] == ids
    assert torch.equal(short.encode([long]).rows_NTD, univldr.encode([Item("a", text="a small red")]).rows_NTD)


def test_control_tokens_in_a_text_are_only_letters(univldr):
    """The first end of a text is where CLIP pools: what comes behind it would not count."""
    ids = univldr.collator([Item("a", text="a star <|endoftext|> on <|startoftext|> snow")])["input_ids"][0].tolist()
    assert (ids.count(univldr.tokenizer.bos_token_id), ids.count(univldr.tokenizer.eos_token_id)) == (1, 1)
    one, other = univldr.encode([Item("a", text=f"a star <|endoftext|> {end}") for end in ("snow", "night")]).rows_NTD
    assert not torch.allclose(one, other, atol=1e-3)


def test_a_budget_that_the_checkpoint_does_not_have_is_refused(twin):
    with pytest.raises(Refused, match="max_length is 78, and the checkpoint reads 77"):
        UniVLDR.build(twin("clip"), UniVLDRConfig(max_length=78))


def test_a_checkpoint_that_is_no_clip_is_refused():
    with pytest.raises(Refused, match=r"\(Identity\) has no text_model, text_projection, vision_model, visual_projection; .* CLIP: give"):
        UniVLDR(UniVLDRConfig(), LoadedCheckpoint(torch.nn.Identity()))


@pytest.mark.parametrize(("scale", "temperature"), [(2.6592, 0.07), (math.log(100), 0.01), (4.8283, 0.008)])
def test_it_starts_at_clips_own_temperature_which_a_training_can_go_on_from(twin, scale, temperature):
    """OpenAI's scales are 100 but for rounding; UniVL-DR's code lets its own go beyond."""
    part = open_checkpoint(twin("clip")["model"], "multimodal")
    part.model.logit_scale.data.fill_(scale)
    encoder = UniVLDR(UniVLDRConfig(), part)
    assert encoder.temperature == pytest.approx(temperature, rel=1e-4)
    resolved = recipe("univldr").instruct.loss.resolved(encoder.temperature, encoder.dimension)
    assert resolved.temperature == encoder.temperature


def test_a_temperature_that_training_learnt_is_clips_own_scale_for_whoever_opens_the_folder(univldr, tmp_path):
    univldr.save(tmp_path / "untrained")
    assert torch.equal(CLIPModel.from_pretrained(tmp_path / "untrained").logit_scale, univldr.model.logit_scale)
    univldr.temperature = 0.0037
    univldr.save(tmp_path / "trained")
    clip = CLIPModel.from_pretrained(tmp_path / "trained")
    assert 1 / clip.logit_scale.exp().item() == pytest.approx(0.0037)
    clip.logit_scale.data.fill_(-math.log(0.2))
    clip.save_pretrained(tmp_path / "trained")
    assert UniVLDR.open(tmp_path / "trained", UniVLDRConfig()).temperature == pytest.approx(0.2)
    assert load_encoder(tmp_path / "trained").temperature == 0.0037, "what was saved beside it has all its digits"


@pytest.mark.parametrize("kind", ["text", "picture"])
def test_what_is_run_for_other_ranks_adds_nothing_and_only_in_training(univldr, kind):
    items = [item for item in READ if item.id == kind]
    ran = []
    for name in ("text_model", "vision_model"):
        getattr(univldr.model, name).register_forward_hook(lambda *_, name=name: ran.append(name))
    alone = univldr.encode(items).rows_NTD
    assert ran == ["text_model" if kind == "text" else "vision_model"]
    ran.clear()
    rows_NTD, _ = univldr.train()(**univldr.collator(items))
    assert sorted(ran) == ["text_model", "vision_model"]
    assert torch.allclose(rows_NTD, alone, atol=1e-6)


QUERIES = [Item("q1", text="a small star"), Item("q2", text="what is it")]
POSITIVES = [Item("d1", text="two stars", images=(picture("blue"),)), Item("d2", text="a red circle on snow")]
# Of each query, one picture and one text.
NEGATIVES = [Item("n1", text="a circle", images=(picture("red"),)), Item("n2", text="large blue stars at night")] * 2


def step(encoder, tuning, documents, objective) -> set[str]:
    """The parameters that one step changes, without weight decay and momentum: those alone that have a gradient."""
    encoder.tune(tuning)
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    optimizer = torch.optim.SGD([parameter for parameter in encoder.parameters() if parameter.requires_grad], lr=1.0)
    vectors, pairs = Vectors(*encoder(**encoder.training_collator(QUERIES, documents))), len(QUERIES)
    batch_labels = labels([int(item.modality) for item in documents], [len(documents) // pairs - 1] * pairs)
    contrastive(vectors[:pairs], vectors[pairs:], batch_labels, objective, 1 / 0.07).loss.backward()
    optimizer.step()
    return {name for name, parameter in encoder.named_parameters() if not torch.equal(parameter, before[name])}


IN_BATCH, THREE_WAY = Objective(), Objective(in_batch=False)


def towers(encoder, *names) -> set[str]:
    prefixes = {"text": ("model.text_model.", "model.text_projection."), "vision": ("model.vision_model.", "model.visual_projection.")}
    return {name for name, _ in encoder.named_parameters() if name.startswith(tuple(p for tower in names for p in prefixes[tower]))}


def test_in_stage_1_all_of_clip_learns_but_the_scale_that_is_the_trainers(univldr):
    moved = step(univldr, Tuning(BOTH, lora=None), POSITIVES, IN_BATCH)
    assert moved == towers(univldr, *BOTH) == {name for name, _ in univldr.named_parameters()}
    assert "model.logit_scale" in dict(univldr.named_buffers())


def test_in_stage_2_the_same_learns_of_a_positive_and_its_own_two_negatives(univldr):
    assert step(univldr, Tuning(BOTH, lora=None), POSITIVES + NEGATIVES, THREE_WAY) == towers(univldr, *BOTH)


@pytest.mark.parametrize("tower", BOTH)
def test_a_tower_can_be_frozen(univldr, tower):
    assert step(univldr, Tuning((tower,), lora=None), POSITIVES, IN_BATCH) == towers(univldr, tower)


def test_adapters_are_put_on_the_projections_too(univldr):
    """A tower is a list of two parts of CLIP: what is put on the list must be put on CLIP."""
    moved = step(univldr, Tuning(BOTH, Lora(2, 4, 0.0)), POSITIVES, IN_BATCH)
    changed = {name.partition(".lora_B")[0] for name in moved}
    assert {"model.text_projection", "model.visual_projection", "model.text_model.encoder.layers.1.mlp.fc1"} <= changed
    assert len(changed) == 2 * 2 * 6 + 2  # of two layers in each half


def test_an_encoder_that_was_saved_before_texts_were_cleaned_reads_them_as_it_did(univldr, twin, tmp_path):
    univldr.save(tmp_path)
    described = {"architecture": "univldr", "config": {"max_length": 77}, "temperature": 0.07, "widths": []}
    (tmp_path / "mirepoix.json").write_text(json.dumps(described))
    item = Item("a", text="a star's “night” &amp; snow")
    plain = UniVLDR.build(twin("clip"), UniVLDRConfig(clean_text=False)).eval()
    found = load_encoder(tmp_path).encode([item]).rows_NTD
    assert torch.equal(found, plain.encode([item]).rows_NTD)
    assert not torch.allclose(found, univldr.encode([item]).rows_NTD, atol=1e-2)
    assert saved_config(tmp_path) == UniVLDRConfig(clean_text=False)
