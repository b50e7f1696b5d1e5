"""Pictures are legible, vary with the pose and not with the thing, and damage is damage."""

import itertools
import random
from io import BytesIO

import pytest
from PIL import Image, ImageChops, ImageStat, UnidentifiedImageError

from mirepoix.components.synthetic.drawing import ATTRIBUTES, COLOURS, DAMAGES, GROUNDS, Identity, damaged, draw, perturbed

PLAIN = Identity("circle", "red", "plain", "large", "one", "snow")


def changed(**attributes):
    return Identity(**{name: attributes.get(name, getattr(PLAIN, name)) for name in ATTRIBUTES})


def opened(picture):
    return Image.open(BytesIO(picture)).convert("RGB")


def mean_picture(identity, side=56, poses=24):
    """The mean picture of many poses."""
    pictures = [opened(draw(identity, side, random.Random(f"{identity}/{pose}"))) for pose in range(poses)]
    mean = pictures[0]
    for number, picture in enumerate(pictures[1:], start=2):
        mean = Image.blend(mean, picture, 1 / number)
    return mean


def distance(one, other):
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).rms)


def apart(one, other):
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("side", [28, 56, 112])
def test_a_picture_is_a_square_png_of_the_size_asked_for(side):
    picture = Image.open(BytesIO(draw(PLAIN, side, random.Random(0))))

    assert picture.format == "PNG"
    assert picture.size == (side, side)


def test_the_same_random_numbers_give_the_same_bytes():
    assert draw(PLAIN, 56, random.Random(3)) == draw(PLAIN, 56, random.Random(3))


def test_another_pose_gives_other_bytes():
    assert len({draw(PLAIN, 56, random.Random(pose)) for pose in range(50)}) == 50


def test_every_value_of_every_attribute_can_be_drawn():
    for name, words in ATTRIBUTES.items():
        for word in words:
            assert opened(draw(changed(**{name: word}), 56, random.Random(0))).size == (56, 56)


def test_colours_are_far_from_each_other_and_from_every_ground():
    for one, other in itertools.combinations(COLOURS.values(), 2):
        assert apart(one, other) > 120
    for colour, ground in itertools.product(COLOURS.values(), GROUNDS.values()):
        assert apart(colour, ground) > 100
    for one, other in itertools.combinations(GROUNDS.values(), 2):
        assert apart(one, other) > 100


@pytest.mark.parametrize("name", list(ATTRIBUTES))
def test_any_two_values_of_an_attribute_look_different(name):
    means = [mean_picture(changed(**{name: word})) for word in ATTRIBUTES[name]]
    again = mean_picture(changed(**{name: ATTRIBUTES[name][0]}), poses=23)
    noise = distance(means[0], again)

    for one, other in itertools.combinations(means, 2):
        assert distance(one, other) > 5 * noise


def test_even_a_small_shape_fills_a_fair_part_of_the_picture():
    for shape in ATTRIBUTES["shape"]:
        picture = opened(draw(changed(shape=shape, size="small"), 56, random.Random(0)))
        inked = sum(1 for pixel in picture.get_flattened_data() if apart(pixel, COLOURS["red"]) < 60)
        assert inked > 56 * 56 / 40, shape


@pytest.mark.parametrize("shape", ATTRIBUTES["shape"])
def test_nothing_is_cut_off_at_the_border(shape):
    frame = [(x, y) for x in range(56) for y in range(56) if {x, y} & {0, 55}]
    for number, pose in itertools.product(ATTRIBUTES["number"], range(12)):
        picture = opened(draw(changed(shape=shape, number=number), 56, random.Random(pose)))
        assert not [place for place in frame if apart(picture.getpixel(place), COLOURS["red"]) < 100]


def test_a_description_names_every_attribute_by_its_word_once():
    for wording in changed(number="three").wordings():
        words = wording.split()
        for name in ATTRIBUTES:
            assert words.count(getattr(changed(number="three"), name)) == 1


def test_two_identities_never_share_a_description():
    values = [Identity(*words) for words in itertools.product(*ATTRIBUTES.values())]

    assert len(values) == 8 * 8 * 4 * 3 * 4 * 6
    assert len({wording for identity in values for wording in identity.wordings()}) == 2 * len(values)


def test_no_word_means_two_things():
    words = [word for values in ATTRIBUTES.values() for word in values] + list(ATTRIBUTES)

    assert len(words) == len(set(words))


def test_a_near_duplicate_has_other_bytes_and_nearly_the_same_pixels():
    for pose in range(30):
        picture = draw(PLAIN, 56, random.Random(pose))
        copy = perturbed(picture, random.Random(pose))
        assert copy != picture
        assert max(ImageStat.Stat(ImageChops.difference(opened(copy), opened(picture))).mean) < 6


def test_near_duplicates_come_in_two_encodings():
    picture = draw(PLAIN, 56, random.Random(0))

    formats = {Image.open(BytesIO(perturbed(picture, random.Random(seed)))).format for seed in range(30)}

    assert formats == {"PNG", "JPEG"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_picture_cannot_be_decoded(damage):
    for pose in range(20):
        rng = random.Random(pose)
        broken = damaged(draw(PLAIN, 56, rng), damage, rng)
        with pytest.raises((UnidentifiedImageError, OSError, SyntaxError)):
            Image.open(BytesIO(broken)).load()
