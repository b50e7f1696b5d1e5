"""MIRe against its equations, written out for one item at a time; what its padding, its stages and its cache do."""

import io
import json
import math
import pickle
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import open_checkpoint, quiet
from mirepoix.models.backbones.tuning_config import Lora
from mirepoix.models.backbones.twins import seeded
from mirepoix.models.encoder import load_encoder
from mirepoix.models.encoder_config import saved_config
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, worded
from mirepoix.models.retrievers.mire import Mire, picture_key
from mirepoix.models.retrievers.mire_config import MireConfig, MireTuning
from mirepoix.models.vectors import maxsim
from tests.models.conftest import ITEMS, picture
from tests.models.retrievers.test_query_pooling import attended, looked

SMALL = MireConfig(width=16, heads=3, global_tokens=2, global_hidden=8, patch_hidden=10, query_length=12, document_length=20)
VISUAL = SMALL.global_tokens + SMALL.heads
READABLE = [
    *ITEMS[:5],
    Item("signs", text="snow, at night! (red?)"),
    Item("long", text="a small red circle on snow " * 9, images=(picture(),)),
    Item("asked alone", images=(picture("green"),), instruction="Find a passage."),
    Item("several", text="two large stars", images=(picture("red"), picture("blue", 80), picture("green", 40))),
]
BY_ID = {item.id: item for item in READABLE}
ALIGNMENT = MireTuning(towers=("pooling",), text_rows=False)
FINE_TUNING = MireTuning()


def made(twin, config=SMALL, seed=0) -> Mire:
    """A retriever whose pooling has no weight that is still zero or one."""
    with seeded(seed):
        mire = Mire.build(twin("bert_clip"), config)
        for weight in mire.pooling.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return mire.eval()


@pytest.fixture
def mire(twin):
    return made(twin)


class Slow:
    """MIRe one item at a time: plain towers of transformers, what else there is from the saved weights, loops."""

    def __init__(self, folder):
        from transformers import AutoImageProcessor, AutoTokenizer, BertModel, CLIPVisionModel

        with quiet():
            self.bert = BertModel.from_pretrained(folder / "text", add_pooling_layer=False).eval()
            self.clip = CLIPVisionModel.from_pretrained(folder / "vision").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "text")
        self.image_processor = AutoImageProcessor.from_pretrained(folder / "vision", backend="pil")
        self.linear = load_file(folder / "text" / "model.safetensors")["linear.weight"]
        head = load_file(folder / "head.safetensors")
        assert all(name.startswith("pooling.") for name in head)
        self.pooling = {name.removeprefix("pooling."): weight for name, weight in head.items()}

    def tokens(self, marker, text, length, filled=False):
        names = ["[CLS]", marker, *self.tokenizer.tokenize(text)[: length - 3], "[SEP]"]
        if filled:
            names += ["[MASK]"] * (length - len(names))
        states = self.bert(torch.tensor([self.tokenizer.convert_tokens_to_ids(names)])).last_hidden_state[0]
        return names, [self.linear @ state for state in states]

    def visual(self, item, guide):
        seen = []
        for data in item.images:
            pixels = self.image_processor(images=Image.open(io.BytesIO(data)).convert("RGB"), return_tensors="pt")["pixel_values"]
            layers = self.clip(pixels, output_hidden_states=True).hidden_states
            seen.append([layers[-1][0, 0], *layers[-2][0, 1:]])
        return [row for states in seen for row in looked(self.pooling, states)] + attended(
            self.pooling, [patch for states in seen for patch in states[1:]], guide
        )

    def query(self, item, length=SMALL.query_length, filled=False, text_rows=True):
        _, text = self.tokens("[unused0]", worded(item), length, filled)
        if not item.images:
            return text
        return self.visual(item, text) + (text if text_rows and worded(item) else [])

    def document(self, item, length=SMALL.document_length, signs=True):
        names, text = self.tokens("[unused1]", worded(item), length)
        without = () if signs else list("""!"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~""")
        text = [row for name, row in zip(names, text, strict=True) if name not in without]
        if not item.images:
            return text
        guide = "Can you describe the primary elements in this image?"
        return self.visual(item, self.tokens("[unused0]", guide, SMALL.query_length)[1]) + (text if worded(item) else [])


@pytest.fixture(scope="module")
def slow(twin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mire")
    made(twin).save(folder)
    return Slow(folder)


@contextmanager
def counted(mire):
    """How many pictures the frozen tower sees within the block, call by call."""
    calls: list[int] = []
    hook = mire.vision.embeddings.register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    yield calls
    hook.remove()


def assert_equal(rows_TD, mask_T, expected):
    assert mask_T.tolist() == [place < len(expected) for place in range(len(mask_T))]
    assert torch.allclose(rows_TD[: len(expected)], normalize(torch.stack(expected), dim=-1), atol=1e-5)
    assert not rows_TD[len(expected) :].any()


def forward(mire, collator, queries, documents=()):
    with torch.no_grad():
        rows_NTD, mask_NT = mire(**collator(queries, documents))
    return [rows_TD[mask_T] for rows_TD, mask_T in zip(rows_NTD, mask_NT, strict=True)]


def test_in_search_every_row_is_what_the_equations_say(mire, slow):
    with torch.no_grad():
        rows_NTD, mask_NT = mire(**mire.collator(READABLE, READABLE[::-1]))
        expected = [slow.query(item) for item in READABLE] + [slow.document(item) for item in READABLE[::-1]]
        for rows_TD, mask_T, rows in zip(rows_NTD, mask_NT, expected, strict=True):
            assert_equal(rows_TD, mask_T, rows)
    assert mask_NT.shape[1] == max(map(len, expected))


@pytest.mark.parametrize(
    ("tuning", "read"),
    [
        (FINE_TUNING, {"filled": True}),
        (MireTuning(query_padding="none"), {}),
        (ALIGNMENT, {"filled": True, "text_rows": False}),
        (MireTuning(query_length=9, document_length=7), {"filled": True, "length": 9}),
    ],
    ids=["fine-tuning", "without [MASK]", "alignment", "other lengths"],
)
def test_in_training_every_row_is_what_the_equations_say(mire, slow, tuning, read):
    """With [MASK] as text like any other, in the score and in what weighs the patches; documents without rows of punctuation."""
    mire.tune(tuning)
    with torch.no_grad():
        queries = [BY_ID[name] for name in ("text", "asked alone", "two pictures", "long")]
        documents = [BY_ID["long"], BY_ID["signs"]]
        rows_NTD, mask_NT = mire(**mire.training_collator(queries, documents))
        expected = [slow.query(item, **read) for item in queries]
        expected += [slow.document(item, tuning.document_length or SMALL.document_length, signs=False) for item in documents]
        for rows_TD, mask_T, rows in zip(rows_NTD, mask_NT, expected, strict=True):
            assert_equal(rows_TD, mask_T, rows)


def test_a_stage_changes_nothing_of_search(mire):
    before = mire.encode(READABLE, role="query")
    mire.tune(MireTuning(towers=("pooling",), text_rows=False, query_length=40, document_length=400, cached_pictures=9))
    assert torch.equal(mire.encode(READABLE, role="query").rows_NTD, before.rows_NTD)


def test_the_score_is_the_best_document_row_of_each_query_row_summed(mire):
    queries, documents = mire.encode(READABLE, role="query"), mire.encode(READABLE)
    scores = maxsim(queries, documents)
    for q in range(len(READABLE)):
        for d in range(len(READABLE)):
            expected = 0.0
            for row, real in zip(queries.rows_NTD[q], queries.mask_NT[q], strict=True):
                if real:
                    expected += max(float(row @ other) for other in documents.rows_NTD[d][documents.mask_NT[d]])
            assert scores[q, d].item() == pytest.approx(expected, abs=1e-4)


def test_in_search_the_padding_of_a_query_does_not_change_its_vectors(twin):
    """Published, zeroed [MASK] rows still blur the patches' weights, the more of them the shorter the query."""
    roomy = MireConfig(**{**vars(SMALL), "query_length": 60})
    query = [BY_ID["both"]]
    assert torch.allclose(
        made(twin).encode(query, role="query").rows_NTD, made(twin, roomy).encode(query, role="query").rows_NTD, atol=1e-6
    )


def test_in_training_every_query_fills_its_length_and_counts_all_of_it(mire):
    mire.tune(FINE_TUNING)
    batch = mire.training_collator([BY_ID["text"], BY_ID["both"]], [BY_ID["text"]])
    assert batch["attention_mask"].sum(1).tolist() == [12, 12, 3 + 4]
    assert [len(rows) for rows in forward(mire, mire.training_collator, [BY_ID["text"], BY_ID["both"]])] == [12, VISUAL + 12]


def test_alignment_scores_pictures_alone_but_text_where_there_is_no_picture(mire):
    mire.tune(ALIGNMENT)
    queries = [BY_ID["both"], BY_ID["two pictures"], BY_ID["text"]]
    counts = [len(rows) for rows in forward(mire, mire.training_collator, queries, queries)]
    assert counts == [VISUAL, VISUAL + SMALL.global_tokens, 12, VISUAL + 3 + 2, VISUAL + SMALL.global_tokens, 3 + 4]


def test_a_document_has_no_rows_of_punctuation_in_training_and_has_them_in_search_as_the_published_index(mire, twin):
    plain, signed, signs = Item("a", text="snow night"), Item("b", text="snow, night!"), Item("c", text="?!")
    documents = [plain, signed, signs]
    assert [len(rows) for rows in forward(mire, mire.training_collator, [], documents)] == [5, 5, 3]
    assert not torch.allclose(*forward(mire, mire.training_collator, [], [plain, signed]), atol=1e-3), "BERT reads it all the same"
    assert [len(rows) for rows in forward(mire, mire.collator, [plain, signed], documents)] == [5, 7, 5, 7, 5]
    without = made(twin, replace(SMALL, punctuation_rows=False))
    assert [len(rows) for rows in forward(without, without.collator, [plain, signed], documents)] == [5, 7, 5, 5, 3]


def test_an_encoder_that_was_saved_before_punctuation_had_rows_has_none_of_it(mire, tmp_path):
    mire.save(tmp_path)
    described = json.loads((tmp_path / "mirepoix.json").read_text())
    del described["config"]["punctuation_rows"]
    (tmp_path / "mirepoix.json").write_text(json.dumps(described))
    signed = Item("b", text="snow, night!")
    assert [each.encode([signed]).mask_NT.sum() for each in (mire, load_encoder(tmp_path))] == [7, 5]
    assert saved_config(tmp_path) == replace(SMALL, punctuation_rows=False)


def test_an_item_of_pictures_alone_has_visual_rows_alone_and_words_bring_theirs(mire):
    alone, asked = BY_ID["picture"], Item("a", images=BY_ID["picture"].images, instruction="two stars")
    assert [len(rows) for rows in forward(mire, mire.collator, [alone, asked], [alone, asked])] == [VISUAL, VISUAL + 5] * 2


def test_a_querys_own_words_weigh_its_patches_and_leave_its_global_rows_alone(mire):
    one, other = (Item("a", text=text, images=(picture("blue"),)) for text in ("two large stars", "at night"))
    rows = forward(mire, mire.collator, [one, other])
    assert torch.allclose(rows[0][: SMALL.global_tokens], rows[1][: SMALL.global_tokens], atol=1e-6)
    assert not torch.allclose(rows[0][SMALL.global_tokens : VISUAL], rows[1][SMALL.global_tokens : VISUAL], atol=1e-3)
    rows = forward(mire, mire.collator, [], [one, other])
    assert torch.allclose(rows[0][:VISUAL], rows[1][:VISUAL], atol=1e-6), "a document's words do not weigh its pictures"


def test_the_guide_of_documents_weighs_their_patches_and_nothing_else(twin, mire):
    other = made(twin, MireConfig(**{**vars(SMALL), "document_guide": "two large blue stars at night"}))
    items = [BY_ID["both"]]
    assert (mire.config.document_guide, Mire.prompt(other.config)) == (
        "Can you describe the primary elements in this image?",
        "two large blue stars at night",
    )
    query, document = forward(mire, mire.collator, items, items)
    other_query, other_document = forward(other, other.collator, items, items)
    assert torch.allclose(query, other_query, atol=1e-6)
    attentive = slice(SMALL.global_tokens, VISUAL)
    assert not torch.allclose(document[attentive], other_document[attentive], atol=1e-3)
    rest = [*range(SMALL.global_tokens), *range(VISUAL, len(document))]
    assert torch.allclose(document[rest], other_document[rest], atol=1e-6)
    assert len(mire.collator([], items)["guide_mask"]) == 1 and not len(mire.collator(items, [BY_ID["text"]])["guide_mask"])


def test_pictures_of_an_item_have_global_rows_each_and_share_the_attention(mire):
    one, other = picture("blue"), picture("green", 40)
    (forth,) = forward(mire, mire.collator, [Item("a", text="two stars", images=(one, other))])
    (back,) = forward(mire, mire.collator, [Item("a", text="two stars", images=(other, one))])
    each = SMALL.global_tokens
    assert torch.allclose(forth[: 2 * each], torch.cat([back[each : 2 * each], back[:each]]), atol=1e-6)
    assert torch.allclose(forth[2 * each :], back[2 * each :], atol=1e-5)
    (alone,) = forward(mire, mire.collator, [Item("a", text="two stars", images=(one,))])
    assert torch.allclose(forth[:each], alone[:each], atol=1e-6)
    assert not torch.allclose(forth[2 * each :], alone[each:], atol=1e-3)


def test_by_default_it_has_the_published_sizes(twin):
    mire = Mire.build(twin("bert_clip"), MireConfig())
    vision = mire.vision.config.hidden_size
    assert {name: tuple(weight.shape) for name, weight in mire.pooling.named_parameters() if weight.ndim == 2} == {
        "global_in.weight": (1024, vision),
        "global_out.weight": (2048, 1024),
        "patch_in.weight": (3072, vision),
        "keys.weight": (1536, 3072),
        "values.weight": (1536, 3072),
        "head_out.weight": (128, 128),
    }
    assert mire.text.linear.weight.shape == (128, mire.text.config.hidden_size)
    assert [layer.bias for layer in (mire.pooling.keys, mire.pooling.values, mire.text.linear)] == [None] * 3
    batch = mire.training_collator([BY_ID["both"]], [BY_ID["long"]])
    assert (batch["places"] >= 0).sum(1).tolist()[0] == 16 + 12 + 32


def test_control_tokens_in_a_text_are_only_letters(mire):
    batch = mire.collator([Item("a", text="[MASK] [SEP] [unused1] [CLS]")])
    special = mire.collator.tokenizer.convert_tokens_to_ids(["[CLS]", "[unused0]", "[SEP]", "[MASK]", "[unused1]"])
    ids = batch["query_ids"][0].tolist()
    assert [ids.count(token) for token in special] == [1, 1, 1, 0, 0]


def test_text_is_cut_to_the_length_of_its_role_and_keeps_its_frame(mire):
    batch = mire.collator([BY_ID["long"]], [BY_ID["long"]])
    assert batch["attention_mask"].sum(1).tolist() == [SMALL.query_length, SMALL.document_length]
    separator = mire.collator.tokenizer.sep_token_id
    assert batch["query_ids"][0, SMALL.query_length - 1] == batch["document_ids"][0, -1] == separator


def test_lengths_that_exceed_those_of_the_tower_are_refused(twin, mire):
    with pytest.raises(Refused, match="document_length is 1000, and the text tower reads 512 tokens"):
        Mire.build(twin("bert_clip"), MireConfig(document_length=1000))
    with pytest.raises(Refused, match="query_length is 513, and the text tower reads 512 tokens"):
        mire.tune(MireTuning(query_length=513))


def test_other_markers_are_read_and_unknown_ones_refused(twin):
    swapped = made(twin, MireConfig(**{**vars(SMALL), "query_marker": "[unused1]", "document_marker": "[unused0]"}))
    text = [BY_ID["text"]]
    assert torch.allclose(swapped.encode(text, role="query").rows_NTD, made(twin).encode(text).rows_NTD, atol=1e-6)
    with pytest.raises(Refused, match=r"document_marker is '\[unused9\]', which the text tower's tokenizer does not have"):
        Mire.build(twin("bert_clip"), MireConfig(document_marker="[unused9]"))


def colbert(twin, folder, width=16, form="safetensors"):
    """A checkpoint as ColBERT's are: BERT under its name, and a projection beside it."""
    shutil.copytree(twin("bert_clip")["text"].name, folder)
    weights = {f"bert.{name}": weight for name, weight in load_file(folder / "model.safetensors").items()}
    with seeded(7):
        weights["linear.weight"] = torch.randn(width, weights["bert.embeddings.word_embeddings.weight"].shape[1])
    if form == "safetensors":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
    return {**twin("bert_clip"), "text": Checkpoint(folder)}


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_over_a_published_colbert_text_alone_has_colberts_own_vectors(twin, tmp_path, form):
    checkpoints = colbert(twin, tmp_path / "colbert", form=form)
    mire = Mire.build(checkpoints, SMALL).eval()
    mire.save(tmp_path / "saved")
    plain = Slow(tmp_path / "saved")
    with seeded(7):
        assert torch.equal(plain.linear, torch.randn(plain.linear.shape))
    for item in (BY_ID["text"], BY_ID["signs"]):
        (query_rows,), (document_rows,) = mire.encode([item], role="query").rows_NTD, mire.encode([item]).rows_NTD
        names, rows = plain.tokens("[unused0]", item.text, 99)
        assert torch.allclose(query_rows, normalize(torch.stack(rows), dim=-1), atol=1e-5) and len(query_rows) == len(names)
        names, rows = plain.tokens("[unused1]", item.text, 99)
        assert torch.allclose(document_rows, normalize(torch.stack(rows), dim=-1), atol=1e-5)


def test_a_published_projection_of_another_width_is_refused(twin, tmp_path):
    with pytest.raises(Refused, match=r"width is 16, and the linear.weight of .*colbert gives 24; set encoder.width to that"):
        Mire.build(colbert(twin, tmp_path / "colbert", width=24), SMALL)


def test_towers_that_it_cannot_be_built_over_are_refused(twin):
    with pytest.raises(
        Refused, match=r"^mire's text tower is a BERT, and the checkpoint holds a t5, without cls_token, sep_token, mask_token"
    ):
        Mire.build(twin("t5_clip"), SMALL)
    text, vision = (open_checkpoint(twin("bert_clip")[name], name) for name in ("text", "vision"))
    with pytest.raises(Refused, match=r"^mire's vision tower is a clip_vision_model, and the checkpoint holds a bert; give another"):
        Mire(SMALL, text, text)
    text.model.config.is_encoder_decoder = True
    with pytest.raises(Refused, match=r"^mire's text tower is a BERT, and the checkpoint holds a bert, with a decoder; give a ColBERT"):
        Mire(SMALL, text, vision)


def test_without_a_published_projection_the_seed_draws_one(twin):
    same, again, other = (made(twin, seed=seed).text.linear.weight for seed in (0, 0, 1))
    assert torch.equal(same, again) and not torch.equal(same, other)
    bound = math.sqrt(6 / sum(same.shape))
    assert 0.95 * bound < same.abs().max() <= bound, "as the pooling's layers are drawn"


def test_a_saved_encoder_that_lost_its_projection_is_refused(mire, tmp_path):
    mire.save(tmp_path)
    file = tmp_path / "text" / "model.safetensors"
    weights = load_file(file)
    del weights["linear.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(Refused, match=r"text has no linear.weight"):
        load_encoder(tmp_path)


def test_it_pickles_after_it_saw_pictures(mire):
    mire.encode(READABLE)
    mire.tune(MireTuning(cached_pictures=9))
    forward(mire, mire.training_collator, READABLE)
    again = pickle.loads(pickle.dumps(mire))
    assert torch.equal(again.encode(READABLE).rows_NTD, mire.encode(READABLE).rows_NTD)
    assert len(mire.feature_cache.kept) > 0 and again.feature_cache.most == 9 and not again.feature_cache.kept, "the cache is not pickled"


def stepped(mire, tuning):
    """The names of the weights that one step of an optimizer over pairs of all kinds changes."""
    mire.tune(tuning)
    before = {name: weight.detach().clone() for name, weight in mire.named_parameters()}
    optimizer = torch.optim.SGD([weight for weight in mire.parameters() if weight.requires_grad], lr=1.0)
    rows_NTD, _ = mire(**mire.training_collator(READABLE, READABLE))
    (rows_NTD * torch.linspace(-1, 1, rows_NTD.numel()).reshape(rows_NTD.shape).sin()).sum().backward()
    optimizer.step()
    return {name for name, weight in mire.named_parameters() if not torch.equal(weight, before[name])}


def test_alignment_changes_the_pooling_and_nothing_else(mire):
    assert stepped(mire, ALIGNMENT) == {name for name, _ in mire.named_parameters() if name.startswith("pooling.")}


def test_fine_tuning_changes_text_and_pooling_and_never_the_pictures_tower(mire):
    changed = {name for name, _ in mire.named_parameters() if name.startswith(("pooling.", "text."))}
    # A bias that all keys of an attention share changes no weight of it.
    unmoved = {name for name in changed if name.endswith("key.bias")}
    assert stepped(mire, FINE_TUNING) | unmoved == changed
    assert "text.linear.weight" in changed


def test_adapters_fit_the_pooling_too(mire):
    changed = stepped(mire, MireTuning(towers=("pooling",), lora=Lora(2, 4, 0.0)))
    assert changed and all("lora_" in name and name.startswith("pooling.") for name in changed)


def test_in_alignment_text_learns_nothing_while_its_dropout_stays_active(mire):
    mire.tune(ALIGNMENT)
    assert all(module.training for module in mire.text.modules())
    assert not any(module.training for module in mire.vision.modules())


def test_no_gradient_is_kept_for_the_pictures_tower_whatever_is_tuned(mire):
    mire.vision.requires_grad_(True)
    batch = mire.collator([BY_ID["picture"]])
    assert not mire._cached_states(batch["pixel_values"], batch["picture_keys"]).requires_grad


def test_a_training_batch_without_pictures_still_runs_pooling_and_tower_to_no_effect(mire):
    mire.tune(FINE_TUNING)
    batch = mire.training_collator([BY_ID["text"]], [BY_ID["signs"]])
    with counted(mire) as calls:
        rows_NTD, _ = mire(**batch)
        rows_NTD.square().sum().backward()
    assert calls == [1]
    assert all(weight.grad is not None and not weight.grad.any() for weight in mire.pooling.parameters())
    mire.eval()
    with counted(mire) as calls:
        assert torch.allclose(mire(**batch)[0], rows_NTD, atol=1e-6)
    assert calls == []


def test_a_picture_in_the_cache_is_not_looked_at_again_and_gives_the_same_rows(mire):
    mire.tune(FINE_TUNING)
    expected = forward(mire, mire.training_collator, READABLE, READABLE)
    mire.tune(MireTuning(cached_pictures=99))
    different = {picture_key(data) for item in READABLE for data in item.images}
    with counted(mire) as calls:
        first = forward(mire, mire.training_collator, READABLE, READABLE)
        assert calls == [len(different)], "each picture is looked at once, however often a batch has it"
        second = forward(mire, mire.training_collator, READABLE, READABLE)
        assert calls == [len(different)]
        (new,) = forward(mire, mire.training_collator, [Item("new", images=(picture("black"),))])
        assert calls == [len(different), 1]
    for rows, one, two in zip(expected, first, second, strict=True):
        assert torch.allclose(rows, one, atol=1e-6) and torch.equal(one, two)
    mire.tune(FINE_TUNING)
    assert torch.allclose(new, forward(mire, mire.training_collator, [Item("new", images=(picture("black"),))])[0], atol=1e-6)


def test_search_neither_fills_nor_asks_the_cache(mire):
    mire.tune(MireTuning(cached_pictures=9))
    mire.encode(READABLE)
    assert not mire.feature_cache.kept
    expected = mire.encode([BY_ID["picture"]])
    mire.feature_cache.kept[picture_key(picture())] = torch.zeros(17, 32)
    assert torch.equal(mire.encode([BY_ID["picture"]]).rows_NTD, expected.rows_NTD)


def test_where_another_rank_misses_a_picture_it_looks_at_a_blank_one_to_no_effect(mire, monkeypatch):
    mire.tune(MireTuning(cached_pictures=9))
    batches = [[BY_ID["picture"]], [BY_ID["text"]]]
    for items in batches:
        forward(mire, mire.training_collator, items)
    expected = [forward(mire, mire.training_collator, items)[0] for items in batches]
    for of_others in (0, 1):
        monkeypatch.setattr("mirepoix.models.retrievers.feature_cache.total", lambda missed, of_others=of_others: missed + of_others)
        with counted(mire) as calls:
            for items, rows in zip(batches, expected, strict=True):
                assert torch.equal(forward(mire, mire.training_collator, items)[0], rows)
        assert calls == [1, 1] * of_others
