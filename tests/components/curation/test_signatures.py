"""Signatures are similar where texts and pictures are, in agreement with other libraries of the field."""

import io
import random
from itertools import combinations, pairwise

import imagehash
import numpy as np
import pytest
from datasketch import MinHash
from PIL import Image

from mirepoix.components.corpus.text import split_words
from mirepoix.components.curation.signatures import (
    MAX_SIGNATURES,
    PERMUTATIONS,
    SKETCH,
    banding,
    hamming_distance,
    jaccard_similarity,
    minhashes,
    near_equal,
    picture_signature,
    rearranged,
    sampled_pictures,
    shingles,
    sketch,
    strip_keys,
)
from mirepoix.components.synthetic.drawing import Identity, draw, perturbed

TEXTS = [
    "a red car on a road by the sea", "a red car on a road by the lake", "a blue bird in a tree", "the red car", "red car",
    "one two three four five six seven eight nine ten", "one two three four five six seven eight nine eleven",
    "红色汽车在路上", "红色汽车在路下",
]  # fmt: skip
PLAIN = Identity("circle", "red", "plain", "large", "one", "snow")


def pairs_of(text):
    tokens = split_words(text)
    return set(pairwise(tokens)) or {*tokens}


def jaccard(one, other):
    return len(one & other) / len(one | other)


def opened(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


def seen(*pictures):
    return np.array([picture_signature(picture) for picture in pictures])


def near(one, other, signs=8):
    return bool(near_equal(seen(one), seen(other), signs)[0])


def photograph(seed, size=(320, 240)):
    """Smooth random colours with some noise, as a camera would give them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse, int) + rng.integers(-6, 7, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def again(picture, form="JPEG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return opened(buffer.getvalue())


# Texts


def test_similarity_is_the_jaccard_index_of_pairs_of_tokens():
    for one, other in combinations(TEXTS, 2):
        assert jaccard_similarity(shingles(split_words(one)), shingles(split_words(other))) == jaccard(pairs_of(one), pairs_of(other))


def test_a_single_token_is_its_own_shingle():
    assert jaccard_similarity(shingles(["car"]), shingles(["car"])) == 1
    assert jaccard_similarity(shingles(["car"]), shingles(["bus"])) == 0
    assert len(shingles([])) == 0


def test_one_word_more_or_less_in_a_short_text_is_no_near_duplicate():
    for one, other in (
        ("weighs 5 kg", "weighs 7 kg"),
        ("a red car", "red car"),
        ("a dog and a cat sit there", "a dog and a cow sit there"),
    ):
        assert jaccard_similarity(shingles(split_words(one)), shingles(split_words(other))) < 0.9


def test_long_texts_are_compared_by_a_fair_sample():
    rng = random.Random(0)
    for changed in (0, 40, 120, 400):
        tokens = [f"w{rng.randrange(10**6)}" for _ in range(2000)]
        other = [f"x{place}" if place < changed else token for place, token in enumerate(tokens)]
        whole = jaccard_similarity(shingles(tokens)[: 10**6], shingles(other)[: 10**6]) if changed == 0 else None
        truth = jaccard({*pairwise(tokens)}, {*pairwise(other)})
        assert len(sketch(shingles(tokens))) == SKETCH
        assert abs(jaccard_similarity(sketch(shingles(tokens)), sketch(shingles(other))) - truth) < 0.1
        assert whole in (None, 1)


def test_minhashes_agree_as_often_as_those_of_datasketch():
    cut = [shingles(split_words(text)) for text in TEXTS]
    ours = minhashes(cut)
    theirs = [MinHash(num_perm=PERMUTATIONS, seed=1) for _ in cut]
    for sketched, values in zip(theirs, cut, strict=True):
        sketched.update_batch([value.tobytes() for value in values])
    for one, other in combinations(range(len(TEXTS)), 2):
        truth = jaccard_similarity(cut[one], cut[other])
        assert abs((ours[one] == ours[other]).mean() - truth) < 0.15
        assert abs(theirs[one].jaccard(theirs[other]) - truth) < 0.15


def test_a_signature_does_not_depend_on_its_neighbours():
    cut = [shingles(split_words(text)) for text in TEXTS]
    together = minhashes(cut)
    assert all(np.array_equal(together[place], minhashes([one])[0]) for place, one in enumerate(cut))


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_miss_no_pair_at_the_threshold_and_use_the_signature(threshold):
    bands, rows = banding(threshold)
    assert bands * rows <= PERMUTATIONS
    assert (1 - threshold**rows) ** bands < 1e-6


# Pictures


def test_the_hash_is_that_of_imagehash():
    for seed in range(12):
        picture = photograph(seed, (100 + 9 * seed, 90))
        expected = np.packbits(imagehash.phash(picture).hash.ravel()).view(">u8")[0]
        assert hamming_distance(seen(picture)["hash"], np.array([expected], np.uint64))[0] <= 2


def test_pairs_that_imagehash_finds_are_found_and_no_others():
    originals = [photograph(seed) for seed in range(20)]
    pictures = [*originals, *(again(picture, quality=60) for picture in originals), *(picture.resize((200, 150)) for picture in originals)]
    theirs = [imagehash.phash(picture) for picture in pictures]
    ours = seen(*pictures)
    for one, other in combinations(range(len(pictures)), 2):
        found = bool(near_equal(ours[[one]], ours[[other]], 8)[0])
        assert [found, theirs[one] - theirs[other] <= 10] == [one % 20 == other % 20] * 2


@pytest.mark.parametrize("change", ["jpeg", "small", "large", "bright", "webp"])
def test_another_encoding_size_or_shade_is_a_near_duplicate(change):
    picture = photograph(3, (500, 375))
    changed = {
        "jpeg": lambda: again(picture, quality=40),
        "small": lambda: picture.resize((250, 188)),
        "large": lambda: picture.resize((700, 525)),
        "bright": lambda: picture.point(lambda level: min(255, level + 6)),
        "webp": lambda: again(picture, "WEBP", quality=70),
    }[change]()
    assert near(picture, changed)


def test_another_drawing_of_the_same_thing_is_none():
    drawn = [opened(draw(PLAIN, 56, random.Random(pose))) for pose in range(40)]
    assert not any(near(one, other) for one, other in combinations(drawn, 2))
    assert all(near(one, opened(perturbed(draw(PLAIN, 56, random.Random(pose)), random.Random(pose)))) for pose, one in enumerate(drawn))


def test_another_colour_is_none_though_the_hash_is_the_same():
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    assert not near(red, blue)
    assert near(red, red.resize((80, 80)))


def test_another_format_of_the_frame_is_none():
    picture = photograph(5)
    assert not near(picture, picture.resize((320, 320)))


def test_the_bits_that_differ_are_limited():
    one, other = seen(photograph(1)), seen(photograph(1))
    other["hash"] ^= np.uint64(0b111)
    assert near_equal(one, other, 3)[0] and not near_equal(one, other, 2)[0]


# Rearranged pictures


def panels(order, tall=False):
    boxes = [np.full((100, 100, 3), 210, np.uint8) for _ in range(3)]
    for number, box in enumerate(boxes):
        box[20 + 9 * number : 50, 10 + 20 * number : 40 + 20 * number] = (30, 90 * number, 200)
    bar = np.full((100, 50, 3), 250, np.uint8)
    whole = np.concatenate([boxes[order[0]], bar, boxes[order[1]], bar, boxes[order[2]]], axis=1)
    return Image.fromarray(whole.swapaxes(0, 1).copy() if tall else whole)


@pytest.mark.parametrize("tall", [False, True])
def test_the_same_boxes_in_another_order_are_rearranged_and_share_a_key(tall):
    first = seen(panels((0, 1, 2), tall))
    for order in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        other = seen(panels(order, tall))
        assert rearranged(first, other)[0]
        assert set(strip_keys(first["cells"])[0]) & set(strip_keys(other["cells"])[0])


def test_one_box_that_differs_is_no_rearrangement():
    changed = np.array(panels((2, 1, 0)))
    changed[70:90, 20:40] = (200, 30, 30)
    assert not rearranged(seen(panels((0, 1, 2))), seen(Image.fromarray(changed)))[0]


def test_a_box_twice_instead_of_another_is_no_rearrangement():
    assert not rearranged(seen(panels((0, 1, 2))), seen(panels((0, 1, 1))))[0]


def test_a_picture_of_usual_shape_is_never_rearranged():
    picture = np.array(photograph(2, (160, 120)))
    swapped = Image.fromarray(np.concatenate([picture[:, 80:], picture[:, :80]], axis=1))
    assert not rearranged(seen(Image.fromarray(picture)), seen(swapped))[0]


def test_of_many_frames_some_get_a_signature_the_first_and_last_among_them():
    assert sampled_pictures(3) == [0, 1, 2]
    places = sampled_pictures(100)
    assert len(places) == MAX_SIGNATURES and places[0] == 0 and places[-1] == 99
