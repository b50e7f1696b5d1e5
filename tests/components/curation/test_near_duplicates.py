"""Near-equal rows are found across the whole corpus, as the field's libraries find them, and chains do not grow."""

import random
from itertools import combinations, pairwise

import imagehash
import numpy as np
import pyarrow as pa
from datasketch import MinHash, MinHashLSH

from mirepoix.components.corpus.parts import PARTS
from mirepoix.components.corpus.text import split_words
from mirepoix.components.curation import near_duplicates
from mirepoix.components.curation.curate_config import NearRules
from mirepoix.components.curation.near_duplicates import NEIGHBOURS, keepers, near_pairs
from mirepoix.components.curation.row_checks import RowCheck
from mirepoix.components.curation.row_features import RowFeatures
from mirepoix.components.curation.text_rules import TextRules
from mirepoix.models.item import Item, item_to_row
from mirepoix.serving.pictures_config import PictureLimits
from tests.components.curation.test_row_checks import saved
from tests.components.curation.test_signatures import again, panels, photograph

CHECK = RowCheck(PictureLimits(), TextRules(max_repeated_phrases=1.0), 64, None)
ALL = np.ones((1, 1), bool)


def noted(folder, items):
    folder.mkdir()
    features = RowFeatures(folder)
    table = pa.Table.from_pylist([item_to_row(item) for item in items], schema=PARTS["corpus"])
    for first in range(0, len(items), 100):
        features.add(CHECK.checked(table.slice(first, 100)))
    features.finish()
    return features


def found(folder, items, rules=NearRules(), roles=None, wanted=ALL):  # noqa: B008
    features = noted(folder / f"facts{len(list(folder.iterdir()))}", items)
    roles = np.zeros(len(items), np.int64) if roles is None else np.array(roles)
    pairs, crowded, _ = near_pairs(features, np.arange(len(items)), roles, wanted, rules)
    return {(items[one].id, items[other].id) for one, other in pairs.tolist()}, crowded


def texts(*texts):
    return [Item(f"t{n}", text) for n, text in enumerate(texts)]


PASSAGE = (
    "The lighthouse on the northern cape was built by fishermen of the village after the great storm, and it has been kept by one family "
    "ever since, who light its lamp each evening and write the weather of the day into a book that nobody but they may read."
)


# Texts


def test_a_word_inserted_into_a_caption_makes_another_text_of_it_unless_it_is_long(tmp_path):
    """Of n words n - 2 pairs of neighbours stay, of n + 1 in either: 11 of 14 for a caption, 28 of 31 for thirty words."""
    words = [f"word{chr(97 + number)}" for number in range(26)] + ["one", "two", "three", "four"]
    for count, near in ((13, False), (27, False), (30, True)):
        text = words[:count]
        inserted = [*text[:6], "small", *text[6:]]
        assert bool(found(tmp_path, texts(" ".join(text), " ".join(inserted)))[0]) == near, count


def test_case_spaces_and_punctuation_make_a_near_duplicate_and_another_word_or_number_does_not(tmp_path):
    items = texts(
        "A parcel weighs 5 kg.", "a parcel  weighs 5 KG", "A parcel weighs 7 kg.", "a red car", "a red bus",
        PASSAGE, PASSAGE.upper().replace(",", ";"), PASSAGE.replace("northern", "southern"), PASSAGE + " Built in 1871.",
        PASSAGE + " Built in 1872.",
        "红色汽车在路上", "红色汽车,在路上", "红色汽车在山上", "?", "!",
    )  # fmt: skip
    pairs, _ = found(tmp_path, items)
    assert pairs == {("t0", "t1"), ("t5", "t6"), ("t5", "t7"), ("t6", "t7"), ("t10", "t11")}
    pairs, _ = found(tmp_path, items, NearRules(texts=None))
    assert pairs == {("t0", "t1"), ("t5", "t6"), ("t10", "t11")}


def test_pairs_of_texts_are_those_of_all_pairs_and_of_datasketch(tmp_path):
    rng = random.Random(4)
    items = []
    for _ in range(60):
        tokens = [f"w{'abcdefghij'[rng.randrange(10)]}{'abcdefghij'[rng.randrange(10)]}" for _ in range(60)]
        for changes in (0, 1, 2, 6):
            other = list(tokens)
            for place in rng.sample(range(60), changes):
                other[place] = "zz"
            items.append(Item(f"t{len(items)}", " ".join(other)))
    cut = {item.id: {" ".join(pair).encode() for pair in pairwise(split_words(item.text))} for item in items}
    truth = {
        (one.id, other.id)
        for one, other in combinations(items, 2)
        if len(cut[one.id] & cut[other.id]) >= 0.9 * len(cut[one.id] | cut[other.id])
    }
    index, signatures = MinHashLSH(threshold=0.9, num_perm=128, params=(21, 6)), {}
    for name, pairs in cut.items():
        signatures[name] = MinHash(num_perm=128)
        signatures[name].update_batch(pairs)
        index.insert(name, signatures[name])
    theirs = {(one, other) for one in cut for other in index.query(signatures[one])} & truth
    ours, _ = found(tmp_path, items)
    assert ours == truth == theirs
    assert len(truth) > 60


# Pictures


def test_pairs_of_pictures_are_those_of_imagehash(tmp_path):
    originals = [photograph(seed, (160, 120)) for seed in range(40)]
    pictures = [
        *originals,
        *(again(picture, quality=50) for picture in originals),
        *(picture.resize((120, 90)) for picture in originals[:20]),
    ]
    items = [Item(f"p{n}", images=(saved(picture),)) for n, picture in enumerate(pictures)]
    hashes = [imagehash.phash(picture) for picture in pictures]
    theirs = {(items[one].id, items[other].id) for one, other in combinations(range(len(items)), 2) if hashes[one] - hashes[other] <= 8}
    ours, _ = found(tmp_path, items)
    assert ours == theirs
    assert len(ours) == 40 + 2 * 20


def test_text_and_pictures_must_both_be_near_and_of_the_same_number(tmp_path):
    one, other = saved(photograph(1)), saved(photograph(2))
    again_one = saved(again(photograph(1), quality=60))
    items = [
        Item("a", "a dog", (one,)),
        Item("b", "A dog.", (again_one,)),
        Item("c", "a cat", (one,)),
        Item("d", "", (one,)),
        Item("e", "", (again_one,)),
        Item("f", "", (one, other)),
        Item("g", "", (again_one, other)),
        Item("h", "", (other, one)),
        Item("i", "", (), (one,)),
        Item("j", "a dog"),
    ]
    assert found(tmp_path, items)[0] == {("a", "b"), ("d", "e"), ("f", "g")}
    assert found(tmp_path, items, NearRules(pictures=None))[0] == set()


def test_equal_pictures_count_without_a_limit_of_bits(tmp_path):
    picture = saved(photograph(1))
    assert found(tmp_path, [Item("a", "a dog", (picture,)), Item("b", "A dog!", (picture,))], NearRules(pictures=None))[0] == {("a", "b")}


def test_rearranged_pictures_are_found_if_they_are_wanted(tmp_path):
    orders = [(0, 1, 2), (0, 2, 1), (2, 1, 0), (0, 0, 1)]
    items = [Item(f"p{n}", images=(saved(panels(order)),)) for n, order in enumerate(orders)]
    assert found(tmp_path, items)[0] == {("p0", "p1"), ("p0", "p2"), ("p1", "p2")}
    assert found(tmp_path, items, NearRules(rearranged=False))[0] == set()


def test_only_the_wanted_pairs_of_roles_are_compared(tmp_path):
    items = texts(*["the same text here"] * 4)
    wanted = np.array([[False, True], [True, False]])
    assert found(tmp_path, items, roles=[0, 0, 1, 1], wanted=wanted)[0] == {("t0", "t2"), ("t0", "t3"), ("t1", "t2"), ("t1", "t3")}


# Crowds


def test_a_crowd_of_one_kind_is_still_merged_into_its_first(tmp_path, monkeypatch):
    monkeypatch.setattr(near_duplicates, "PAIRS_WITHIN_ROLE", 1000)
    items = [Item(f"t{n:04d}", "the very same words" + "." * (n % 9)) for n in range(5 * NEIGHBOURS)]
    features = noted(tmp_path / "facts", items)
    pairs, crowded, _ = near_pairs(features, np.arange(len(items)), np.zeros(len(items), np.int64), ALL, NearRules())
    assert crowded == len(items)
    assert len(pairs) < len(items) * (NEIGHBOURS + 2)
    assert set(keepers(pairs, len(items)).tolist()) == {0}


def test_rows_of_one_template_are_all_compared_up_to_the_limit_of_pairs(tmp_path, monkeypatch):
    names = [f"{chr(97 + n % 26)}{chr(97 + n // 26)}ix" for n in range(300)]
    items = texts(*[f"{PASSAGE} {name} and {names[-1 - place]}" for place, name in enumerate(names)])
    features, roles = noted(tmp_path / "facts", items), np.zeros(len(items), np.int64)

    def searched():
        pairs, crowded, _ = near_pairs(features, np.arange(len(items)), roles, ALL, NearRules(texts=0.7))
        return len(pairs), crowded

    assert searched() == (len(items) * (len(items) - 1) // 2, 0)
    monkeypatch.setattr(near_duplicates, "PAIRS_WITHIN_ROLE", 1000)
    pairs, crowded = searched()
    assert pairs < len(items) * (len(items) - 1) // 2 and crowded > 200


def test_texts_that_differ_in_numbers_are_no_crowd(tmp_path, monkeypatch):
    monkeypatch.setattr(near_duplicates, "PAIRS_WITHIN_ROLE", 0)
    items = texts(*[f"{PASSAGE} number {n // 2}{'!' * (n % 2)}" for n in range(600)])
    pairs, crowded, _ = near_pairs(noted(tmp_path / "facts", items), np.arange(600), np.zeros(600, np.int64), ALL, NearRules())
    assert pairs.tolist() == [[n, n + 1] for n in range(0, 600, 2)] and crowded == 0


def test_crowded_rows_of_two_roles_are_all_compared_up_to_the_limit_of_pairs(tmp_path, monkeypatch):
    items = texts(*[f"{PASSAGE} {chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}ix" for n in range(1500)])
    features, roles, wanted = noted(tmp_path / "facts", items), np.arange(len(items)) % 100 == 5, np.array([[False, True], [True, False]])
    everybody = roles.sum() * (~roles).sum()

    def searched():
        pairs, crowded, unmet = near_pairs(features, np.arange(len(items)), roles, wanted, NearRules(texts=0.85))
        assert crowded == 0  # rows of one role are not compared
        return len(pairs), unmet

    assert searched() == (everybody, 0)
    monkeypatch.setattr(near_duplicates, "PAIRS_ACROSS_ROLES", 1000)
    pairs, unmet = searched()
    assert 0 < pairs < everybody and unmet > 1000


# Who is kept


def test_a_chain_is_not_merged_into_one():
    chain = np.array([[0, 1], [1, 2], [2, 3]])
    assert keepers(chain, 5).tolist() == [0, 0, 2, 2, 4]


def test_each_is_merged_into_the_first_kept_one_that_it_is_near_to_whatever_the_order_of_pairs():
    pairs = np.array([[0, 3], [1, 3], [1, 2], [2, 4], [0, 4]])
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(pairs)
        assert keepers(shuffled, 5).tolist() == [0, 1, 1, 0, 0]
