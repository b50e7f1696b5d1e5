"""Captions are told apart as far as it decides which model reads them."""

import pytest

from mirepoix.workflows.init.language import language_of


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["a dog on the beach", "two people with a bicycle"], "English"),
        (["Ein Hund am Strand", "Zwei Leute mit einem Fahrrad auf der Straße"], "German"),
        (["Un chien sur la plage", "Deux personnes avec un vélo dans la rue"], "French"),
        (["Un perro en la playa", "Dos personas con una bicicleta y el mar"], "Spanish"),
        (["海滩上的一只狗", "两个人骑自行车"], "Chinese"),
        (["浜辺の犬", "自転車に乗る二人"], "Japanese"),
        (["Собака на пляже"], "Cyrillic"),
        (["sunset", "IMG 2041"], "English"),
        (["Sofa Modell 70 grau"], "English"),
        ([], "English"),
    ],
)
def test_the_language_of_captions(texts, language):
    assert language_of(texts) == language
