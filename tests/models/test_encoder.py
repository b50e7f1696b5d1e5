"""The contract of every encoder, whichever retriever it is."""

import copy
import json
import pickle
from dataclasses import replace
from functools import cache
from itertools import cycle, islice

import pytest
import torch
from safetensors.torch import load_file, save_file

from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.backbones.twin_config import FAMILIES
from mirepoix.models.backbones.twins import seeded
from mirepoix.models.encoder import DESCRIPTION, HEAD, Encoder, encoder_class, load_encoder
from mirepoix.models.encoder_config import ARCHITECTURES, config_class
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.models.token_batches import Padding
from mirepoix.models.vectors import Vectors
from tests.models.conftest import ITEMS, picture


def test_every_retriever_is_under_the_contract():
    """The tests below run over ARCHITECTURES themselves; each names the twins that it can be built over, and these are made."""
    for name in ARCHITECTURES:
        config = config_class(name)
        assert name == config.ARCHITECTURE and set(config.FAMILIES) <= set(FAMILIES) and config.FAMILIES
        assert issubclass(encoder_class(config), Encoder)


SETTINGS = {"adopted": AdoptedConfig(several="sum")}  # so that it reads every item of the tests


@pytest.fixture(scope="module")
def built(twin):
    """The encoder of a retriever over a family's twin, each built once."""

    @cache
    def made(name: str, family: str):
        config = SETTINGS.get(name, config_class(name)())
        with seeded(0):
            return encoder_class(config).build(twin(family), config).eval()

    return made


@pytest.fixture(params=sorted((name, family) for name in ARCHITECTURES for family in config_class(name).FAMILIES), ids="-".join)
def encoder(request, built):
    return copy.deepcopy(built(*request.param))


def readable(encoder) -> list[Item]:
    return [item for item in ITEMS if not item.modality & ~encoder.reads]


def tuning(encoder, *towers: str, lora: Lora | None = None) -> Tuning:
    return encoder.config.TUNING(towers=towers, lora=lora)


def test_rows_have_unit_norm_and_the_mask_is_true(encoder):
    vectors = encoder.encode(items := readable(encoder))
    assert len(vectors) == len(items)
    assert vectors.width == encoder.dimension
    assert vectors.mask_NT.any(1).all()
    assert torch.allclose(vectors.rows_NTD.norm(dim=-1)[vectors.mask_NT], torch.ones(int(vectors.mask_NT.sum())), atol=1e-5)
    assert not vectors.rows_NTD[~vectors.mask_NT].any()


@pytest.mark.parametrize("role", ["query", "document"])
def test_padding_batch_size_and_order_change_nothing(encoder, role):
    items = readable(encoder)
    alone = Vectors.cat([encoder.encode([item], role=role) for item in items])
    by_twos = encoder.encode(items, 2, role=role)
    backwards = encoder.encode(items[::-1], len(items), role=role)[list(range(len(items)))[::-1]]
    for vectors in (by_twos, backwards):
        assert torch.allclose(alone.rows_NTD, vectors.rows_NTD, atol=1e-5)
        assert torch.equal(alone.mask_NT, vectors.mask_NT)


def test_queries_and_documents_of_one_batch_come_out_as_they_do_apart(encoder):
    items = readable(encoder)
    with torch.inference_mode():
        rows_NTD, mask_NT = encoder(**encoder.collator(items, items[::-1]))
    expected = Vectors.cat([encoder.encode(items, role="query"), encoder.encode(items[::-1])])
    assert torch.allclose(rows_NTD, expected.rows_NTD, atol=1e-5)
    assert torch.equal(mask_NT, expected.mask_NT)


def test_the_attention_mask_counts_the_tokens_of_each_item(encoder):
    batch = encoder.collator([Item("a", text="two stars")], [Item("b", text="two stars and a small red circle on snow")])
    short, long = batch["attention_mask"].sum(1).tolist()
    assert 0 < short < long


def test_a_batch_holds_at_most_so_many_items_and_tokens_and_padding_is_counted(encoder):
    items = [Item(str(n), text="two large blue stars at night "[: 3 + 5 * n % 26] * (1 + n % 3)) for n in range(9)]
    lengths, seen, collate = encoder.collator.lengths((), items), [], encoder.collator.__call__
    budget, padding, alone = 3 * max(lengths), Padding(), Vectors.cat([encoder.encode([item]) for item in items])

    class Watched(type(encoder.collator)):
        def __call__(self, queries, documents=()):
            seen.append([int(item.id) for item in documents])
            return collate(queries, documents)

    encoder.collator.__class__ = Watched
    vectors = encoder.encode(items, 4, batch_tokens=budget, padding=padding)
    assert torch.allclose(vectors.rows_NTD, alone.rows_NTD, atol=1e-5)
    assert sorted(place for batch in seen for place in batch) == [*range(9)] and max(map(len, seen)) in (3, 4)
    assert all(len(batch) * max(lengths[place] for place in batch) <= budget for batch in seen)
    assert padding.tokens == sum(lengths)
    assert padding.places == sum(len(batch) * max(lengths[place] for place in batch) for batch in seen)
    encoder.encode(items, 4, batch_tokens=1)
    assert [len(batch) for batch in seen[-9:]] == [1] * 9


PATCHES = {"unite": 0, "jfe": 0, "marvel": 0, "mimic": 16, "mire": 16, "univldr": 16, "adopted": 16}
"""Patches of a picture of the twin that the attention mask does not count, by the retriever."""


@pytest.mark.parametrize("training", [False, True], ids=["search", "training"])
def test_lengths_are_the_tokens_of_the_attention_mask_and_the_patches_that_it_does_not_count(encoder, training):
    """SigLIP reads every text as one of 64 tokens, which its reader gives no mask for, and SigLIP 2 256 patches of a picture."""
    family, collator = encoder.model.config.model_type if encoder.architecture == "adopted" else "", encoder.collator
    collator = encoder.training_collator if training else collator
    long = Item("long", text="a small red circle on snow " * 400, instruction="" if encoder.architecture == "adopted" else "Find it.")
    items = [*readable(encoder), long, Item("small", images=(picture("red", 9, "JPEG"), picture("blue", 300)))]
    texts = [64 * bool(item.text) if family.startswith("siglip") else None for item in items] * 2
    patches = 256 if family == "siglip2" else PATCHES[encoder.architecture]
    counted = collator(items, items)["attention_mask"].sum(1).tolist()
    expected = [
        (count if text is None else text) + patches * len(item.images) for count, text, item in zip(counted, texts, items * 2, strict=True)
    ]
    assert collator.lengths(items, items) == expected
    assert collator.lengths((), items[:1]) == expected[len(items) : len(items) + 1] and collator.lengths(()) == []


def test_a_damaged_picture_has_some_length_and_is_refused_where_it_is_collated(encoder):
    for data in (b"", b"no picture", picture()[:60], picture()[:-30]):
        item = Item("a", images=(data,), source="corpus", line=7)
        (length,) = encoder.collator.lengths([item])
        assert length >= 1
        with pytest.raises(Refused, match=r"item 'a' \(corpus:7\) has a picture that cannot be decoded"):
            encoder.collator([item])


def test_what_it_does_not_read_is_refused(encoder):
    clip = next(item for item in ITEMS if item.video)
    if encoder.reads & Modality.VIDEO:
        assert len(encoder.encode([clip])) == 1
    else:
        with pytest.raises(Refused, match=r"item 'clip' .* has (text and )?video, and .* reads text and image alone"):
            encoder.encode([clip])


@pytest.mark.parametrize("asked", ["", "Find it."])
def test_an_item_without_text_image_and_video_is_refused_even_with_an_instruction(encoder, asked):
    for text in ("", " \n"):
        nothing = Item("a", text=text, instruction=asked, source="corpus", line=7)
        for role in ("query", "document"):
            with pytest.raises(Refused, match=r"^item 'a' \(corpus:7\) has no text, image or video; give it one of these$"):
                encoder.encode([nothing], role=role)


def test_a_damaged_picture_is_named(encoder):
    with pytest.raises(Refused, match=r"item 'a' \(corpus:7\)"):
        encoder.encode([Item("a", images=(b"no picture",), source="corpus", line=7)])


def test_a_text_beyond_the_budget_is_cut_and_one_within_it_is_not(encoder):
    long = "a small red circle on snow " * 400
    one, other, short, shorter = encoder.encode(
        [Item("a", text=long), Item("b", text=long + "two stars"), *(Item("c", text=t) for t in ("x y", "x"))]
    ).rows_NTD
    assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(short, shorter, atol=1e-3)


@pytest.mark.parametrize("kind", ["text", "picture"])
def test_every_rank_runs_the_same_modules_whatever_its_items_consist_of(encoder, kind):
    """A module that one rank runs and another does not would hang their collectives."""
    encoder.tune(tuning(encoder, *encoder.config.TOWERS))
    mixed = sorted(_ran(encoder, readable(encoder)))
    alone = [item for item in readable(encoder) if item.id == kind]
    assert sorted(_ran(encoder, alone)) == mixed


def _ran(encoder, items) -> set[str]:
    """The names of the modules with weights of their own that a training step over the items runs, with gradients for all that learn."""
    ran = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.add(name))
        for name, module in encoder.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    encoder.zero_grad()
    rows_NTD, _ = encoder(**encoder.training_collator(items, items))
    (rows_NTD * torch.randn_like(rows_NTD)).sum().backward()
    for hook in hooks:
        hook.remove()
    assert all(parameter.grad is not None for parameter in encoder.parameters() if parameter.requires_grad)
    return ran


def test_encoding_twice_is_the_same(encoder):
    assert torch.equal(encoder.encode(readable(encoder)).rows_NTD, encoder.encode(readable(encoder)).rows_NTD)


def test_every_part_of_an_item_counts(encoder):
    base = Item("x", text="two stars", images=(picture(),), instruction="Find it.")
    changes = [
        Item("x", text="two circles", images=(picture(),), instruction="Find it."),
        Item("x", text="two stars", images=(picture("blue"),), instruction="Find it."),
        Item("x", text="two stars", images=(picture(),), instruction="Find another."),
        Item("x", text="two stars", instruction="Find it."),
        Item("x", images=(picture(),), instruction="Find it."),
    ]
    rows = encoder.encode([base, *changes]).rows_NTD.flatten(1)
    assert ((rows[1:] - rows[0]).abs().amax(1) > 1e-4).all()


def test_the_id_does_not_count(encoder):
    one, other = encoder.encode([Item("a", text="two stars"), Item("b", text="two stars")]).rows_NTD
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("role", ["query", "document"])
def test_at_half_precision_its_vectors_are_nearly_the_same(encoder, role):
    """As training and serving on accelerators run it: what is between the layers has the digits of bfloat16, rows have all."""
    whole = encoder.encode(readable(encoder), role=role)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder.encode(readable(encoder), role=role)
    rounded = (whole.rows_NTD * half.rows_NTD).sum(-1)[whole.mask_NT]
    assert torch.equal(whole.mask_NT, half.mask_NT) and half.rows_NTD.dtype == torch.float32
    assert rounded.min() > 0.999 and not torch.equal(whole.rows_NTD, half.rows_NTD)
    assert torch.allclose(half.rows_NTD.norm(dim=-1)[half.mask_NT], torch.tensor(1.0), atol=1e-5)


def test_gradients_are_the_same_when_activations_are_computed_again(encoder):
    encoder.tune(tuning(encoder, *encoder.config.TOWERS))
    gradients = []
    for again in (False, True):
        able = [module for module in encoder.modules() if getattr(module, "supports_gradient_checkpointing", False)]
        assert able
        for module in able if again else ():
            module.activation_checkpointing_enable({"use_reentrant": False})
        encoder.zero_grad()
        with seeded(3):
            learn(encoder)
        gradients.append({name: weight.grad.clone() for name, weight in encoder.named_parameters() if weight.grad is not None})
    kept, computed = gradients
    assert kept.keys() == computed.keys()
    for name, gradient in kept.items():
        assert torch.allclose(gradient, computed[name], atol=1e-5 * max(1.0, float(gradient.abs().max()))), name


def learn(encoder) -> None:
    """The backward pass of a step over all that it reads, as queries and as documents."""
    rows, _ = encoder(**encoder.training_collator(readable(encoder), readable(encoder)))
    (rows * torch.randn_like(rows)).sum().backward()


def test_gradients_reach_exactly_the_tower_that_is_tuned(encoder):
    for name, tower in encoder.towers.items():
        own = {id(parameter) for parameter in tower.parameters()}
        encoder.tune(tuning(encoder, name))
        learn(encoder)
        assert {id(parameter) for parameter in encoder.parameters() if parameter.grad is not None} == own, name
        assert any(parameter.grad.abs().sum() > 0 for parameter in tower.parameters())
        encoder.zero_grad()


def test_gradients_reach_exactly_the_adapters_where_these_learn(encoder):
    tower = encoder.config.TOWERS[0]
    own = {id(parameter) for parameter in encoder.towers[tower].parameters()}
    encoder.tune(tuning(encoder, tower, lora=Lora(2, 4, 0.0)))
    learn(encoder)
    reached = {name: id(parameter) for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert reached.keys() == {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert reached and all("lora_" in name for name in reached) and not own & set(reached.values())


def test_what_was_saved_gives_equal_vectors(encoder, tmp_path):
    """To the last bit but one: weights that lie at another place in memory may be multiplied in another order."""
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert again.config == encoder.config
    found, expected = (each.encode(readable(encoder)).rows_NTD for each in (again, encoder))
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


def test_adapters_are_merged_when_saved(encoder, tmp_path):
    encoder.tune(tuning(encoder, encoder.config.TOWERS[0], lora=Lora(2, 4, 0.0))).eval()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    encoder.save(tmp_path)
    assert torch.allclose(load_encoder(tmp_path).encode(readable(encoder)).rows_NTD, encoder.encode(readable(encoder)).rows_NTD, atol=1e-4)


def test_it_pickles(encoder):
    again = pickle.loads(pickle.dumps(encoder))
    assert torch.equal(again.encode(readable(encoder)).rows_NTD, encoder.encode(readable(encoder)).rows_NTD)
    collator = pickle.loads(pickle.dumps(encoder.collator))
    assert not any(isinstance(part, torch.nn.Module) for part in vars(collator).values())


def test_nothing_to_encode_is_refused(encoder):
    with pytest.raises(Refused, match="at least one item"):
        encoder.encode([])


def test_the_names_of_its_towers_are_known_without_weights(encoder):
    assert tuple(encoder.towers) == encoder.config.TOWERS


def test_an_unknown_tower_is_refused_with_those_there_are(encoder):
    with pytest.raises(Refused, match=", ".join(encoder.towers)):
        encoder.tune(tuning(encoder, "audio"))


def test_another_kind_of_tuning_is_refused(encoder):
    class Foreign(Tuning):
        pass

    with pytest.raises(Refused, match=f"it is a Foreign; this retriever takes {encoder.config.TUNING.__name__}"):
        encoder.tune(Foreign(towers=encoder.config.TOWERS))


def test_what_training_learnt_stays_with_it(encoder, tmp_path):
    encoder.temperature, encoder.widths = 0.05, (8, 16)
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert (again.temperature, again.widths) == (0.05, (8, 16))


def test_a_head_that_is_not_whole_is_refused(encoder, tmp_path):
    encoder.save(tmp_path)
    head = load_file(tmp_path / HEAD) if (tmp_path / HEAD).exists() else {}
    save_file({**dict(list(head.items())[1:]), "stranger": torch.zeros(1)}, tmp_path / HEAD)
    with pytest.raises(Refused, match="stranger"):
        load_encoder(tmp_path)


def test_a_checkpoint_that_holds_more_than_is_read_is_refused(encoder, tmp_path):
    encoder.save(tmp_path)
    for path in tmp_path.rglob("model.safetensors"):
        weights = load_file(path)
        save_file({**weights, "stranger": torch.zeros(1)}, path, metadata={"format": "pt"})
        with pytest.raises(Refused, match=r": 1 weights of the .* are missing or unexpected: .*stranger; give a whole encoder"):
            load_encoder(tmp_path)
        save_file(weights, path, metadata={"format": "pt"})
    assert load_encoder(tmp_path).dimension == encoder.dimension


def test_encoding_does_not_end_training_mode(encoder):
    encoder.train()
    encoder.encode(ITEMS[:1])
    assert encoder.training


def test_a_folder_that_is_no_encoder_is_refused(tmp_path):
    with pytest.raises(Refused, match=DESCRIPTION):
        load_encoder(tmp_path)


def test_an_unknown_retriever_is_refused_with_those_there_are(tmp_path):
    described = {"architecture": "clippy", "config": {}, "temperature": None, "widths": []}
    (tmp_path / DESCRIPTION).write_text(json.dumps(described))
    with pytest.raises(Refused, match="unite"):
        load_encoder(tmp_path)


def test_a_config_of_another_version_is_refused(encoder, tmp_path):
    encoder.save(tmp_path)
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    description["config"]["shoe_size"] = 43
    (tmp_path / DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(Refused, match="shoe_size"):
        load_encoder(tmp_path)


def forms(encoder) -> list[Item]:
    """Items whose words may be cut: alone, after an instruction, beside a picture."""
    pictured = [Item("both", images=(picture(),))] if encoder.reads & Modality.IMAGE else []
    return [Item("words"), Item("asked", instruction="Find a passage."), *pictured]


@pytest.mark.parametrize("role", ["query", "document"])
def test_words_are_cut_of_exactly_those_items_that_are_said_to_be_too_long(encoder, role):
    """Of one that is too long, more words change nothing that is read; of one that is not, they do."""

    def long(item: Item, words: int) -> Item:
        return replace(item, text=" ".join(islice(cycle(("two,", "Red,", "stars,")), words)))

    def same(one: Item, other: Item) -> bool:
        batches = [encoder.collator([item]) if role == "query" else encoder.collator((), [item]) for item in (one, other)]
        return all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0] | batches[1] if "mask" not in name)

    for item in forms(encoder):
        fitting, over = 1, 8192
        while over - fitting > 1:
            middle = (fitting + over) // 2
            fitting, over = (middle, over) if encoder.collator.overlong(long(item, middle), role) is None else (fitting, middle)
        first, second = (encoder.collator.overlong(long(item, count), role) for count in (over, over + 50))
        assert first.limit == second.limit and 0 < first.tokens - first.limit <= 8 and first.tokens < second.tokens
        assert same(long(item, over), long(item, over + 50)) and not same(long(item, fitting - 1), long(item, fitting))
        whole, cut = (encoder.collator.lengths([one], [one])[role == "document"] for one in (long(item, fitting), long(item, over + 50)))
        assert whole <= cut and encoder.collator.overlong(replace(item, text="two stars"), role) is None
