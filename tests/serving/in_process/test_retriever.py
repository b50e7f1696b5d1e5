"""A release in this process gives the results of its endpoint; an encoder by itself encodes and compares."""

from pathlib import Path

import numpy as np
import pytest

from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.models.ragged import RaggedRows
from mirepoix.models.retrievers.mire import Mire
from mirepoix.models.retrievers.mire_config import MireConfig
from mirepoix.models.retrievers.univldr import UniVLDR
from mirepoix.models.retrievers.univldr_config import UniVLDRConfig
from mirepoix.serving.http.api import build_app
from mirepoix.serving.http.limits_config import Limits
from mirepoix.serving.in_process.retriever import Retriever
from mirepoix.serving.release import open_release
from tests.components.fixtures import SIZES
from tests.serving.fixtures import corpus, drawing
from tests.serving.http.test_api import Caller, InProcess, uri

PICTURE = drawing("square", 0.31)


@pytest.fixture(scope="module")
def release(release_folder) -> Retriever:
    opened = open_release(release_folder)
    return Retriever(opened.open_encoder(), opened.name, opened)


@pytest.fixture(scope="module")
def model(encoder_folder) -> Retriever:
    return Retriever(load_encoder(encoder_folder), str(encoder_folder))


@pytest.fixture(scope="module")
def endpoint(release_folder):
    """The results of the release's HTTP application, as a client reads them."""
    opened = open_release(release_folder)
    call = Caller(build_app(InProcess(opened), Limits()))

    def results(**body):
        found = call.post("/v1/search", body).json()["results"]
        return [
            (one["rank"], one["score"], one["id"], one["modality"], one["text"], one["image"] is not None, one["source"]) for one in found
        ]

    return results


@pytest.mark.parametrize("target", [None, "t", "i", "it"])
@pytest.mark.parametrize("form", ["text", "picture", "both"])
def test_a_search_gives_what_the_endpoint_gives(release, endpoint, form, target):
    text, picture = ("a blue disc" if form != "picture" else ""), (PICTURE if form != "text" else None)
    sent = {"text": text, "k": 7, "target": target}
    if picture:
        sent["image"] = uri(picture)
    found = release.search({"text": text, "image": picture}, 7, target)
    shown = [(one.rank, one.score, one.id, one.modality, one.text, one.image is not None, one.source) for one in found]
    assert shown == endpoint(**sent)
    assert len(found) == 7 and [one.rank for one in found] == [1, 2, 3, 4, 5, 6, 7]


def test_an_instruction_replaces_that_of_the_release(release, endpoint):
    found = release.search("a blue disc", instruction="Name its colour.")
    assert [one.score for one in found] == [score for _, score, *_ in endpoint(text="a blue disc", instruction="Name its colour.")]
    assert found == release.search({"text": "a blue disc", "instruction": "Name its colour."}, instruction="not this one")
    assert found != release.search("a blue disc")


def test_each_of_a_list_of_queries_has_a_ranking_and_of_few_documents_all_are_found(release):
    first, second = release.search(["a blue disc", PICTURE], 500)
    assert len(first) == len(second) == 60
    assert [one.id for one in second[:5]] == [one.id for one in release.search(PICTURE, 5)]
    assert len(release.search("a blue disc", np.int64(3))) == 3


def test_the_picture_of_a_result_is_that_of_its_document(release):
    found = release.search(PICTURE, 60)
    assert {one.id for one in found if one.image is None} == {item.id for item in corpus() if not item.images}
    (large,) = (one for one in found if one.id == "picture-00")
    assert large.image.size == (160, 160)


def test_similarities_are_the_scores_of_a_search_without_a_target(release):
    texts = [item for item in corpus() if item.modality == Modality.TEXT]
    scores = release.similarity("a blue disc", texts)
    assert scores.shape == (1, 20) and scores.dtype == np.float32
    found = {one.id: one.score for one in release.search("a blue disc", 60)}
    assert scores[0] == pytest.approx([found[item.id] for item in texts], abs=1e-5)


def test_vectors_are_float32_of_unit_norm_and_similarities_their_products(model):
    queries, documents = model.encode(["a disc", PICTURE], role="query"), model.encode(["a disc", {"text": "a", "image": PICTURE}, "b"])
    assert queries.shape == (2, 32) and documents.shape == (3, 32) and queries.dtype == np.float32
    assert np.linalg.norm(documents, axis=1) == pytest.approx(1, abs=1e-5)
    assert model.similarity(["a disc", PICTURE], ["a disc", {"text": "a", "image": PICTURE}, "b"]) == pytest.approx(queries @ documents.T)
    one = model.encode("a disc")
    assert one.shape == (32,) and one == pytest.approx(model.encode(["a disc"])[0])


def test_queries_of_a_release_have_its_general_instruction_and_documents_have_none(release):
    query, worded = release.encode("a disc", role="query"), release.encode("a disc", role="query", instruction="Find what fits.")
    bare = release.encode("a disc", role="query", instruction="")
    assert (query == worded).all() and np.abs(query - bare).max() > 1e-3
    assert (release.encode("a disc") == release.encode("a disc", instruction="")).all()
    assert (release.encode(Item("x", "a disc", instruction="Find what fits."), role="query", instruction="No.") == query).all()


@pytest.fixture(scope="module")
def mire(tmp_path_factory) -> Retriever:
    checkpoints = make_twin(tmp_path_factory.mktemp("mire"), MireConfig.FAMILIES[0], ["two small red stars"] * 10, SIZES, seed=0)
    return Retriever(Mire.build(checkpoints, MireConfig()).eval(), "mire")


def test_several_rows_an_item_are_ragged_and_compared_by_the_best_of_each_row(mire):
    queries, documents = mire.encode(["two stars", "red"], role="query"), mire.encode(["small stars", "a red star"])
    assert isinstance(queries, RaggedRows) and isinstance(documents, RaggedRows) and len(queries) == 2
    expected = [[(query @ document.T).max(1).sum() for document in documents] for query in queries]
    assert mire.similarity(["two stars", "red"], ["small stars", "a red star"]) == pytest.approx(np.array(expected), abs=1e-4)
    one = mire.encode("red", role="query")
    assert isinstance(one, np.ndarray) and one == pytest.approx(list(queries)[1], abs=1e-5)


def test_a_release_and_a_model_say_what_they_are(release, model):
    version = release.release.version
    assert repr(release) == f"<release tiny {version}: 60 documents, unite, width 32, on cpu>"
    assert repr(model) == f"<model {model.name}: unite, width 32, on cpu>"


def test_a_model_has_no_corpus_to_search(model):
    with pytest.raises(Refused, match=r"is a model, and a search has a corpus too; make a release with `mirepoix release .* --corpus DIR`"):
        model.search("a disc")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"k": 0}, "k is 0; give a whole number from 1"),
        ({"k": True}, "k is True; give a whole number from 1"),
        ({"k": 2.5}, "k is 2.5; give a whole number from 1"),
        (
            {"target": "picture"},
            "target is 'picture', and of tiny there are documents of 't' (20), 'i' (20), 'it' (20); give one of these, "
            "or None for all (the letters are "
            "t text, i picture, v video; it is a picture with a text)",
        ),
        ({"target": 3}, "target is 3, and of tiny there are documents of 't' (20), "),
        ({"target": "v"}, "target is 'v', and of tiny there are documents of 't' (20), "),
        ({"target": Modality.VIDEO}, "target is 'v', and of tiny there are documents of 't' (20), "),
        ({"query": ["a disc", ""]}, "query[1] is an empty text; give a text, a picture or a video"),
        ({"target": ["t"]}, "target is ['t'], and of tiny there are documents of "),
        ({"instruction": "\udcff"}, "instruction: the text has '\\udcff', half of a character"),
        ({"instruction": 3}, "instruction is of the type int; give a text, or None"),
    ],
)
def test_a_search_that_cannot_be_answered_is_refused_in_one_line(release, arguments, line):
    with pytest.raises(Refused) as refused:
        release.search(**{"query": "a disc", **arguments})
    assert str(refused.value).startswith(line)


def test_a_warning_of_a_text_that_names_a_file_points_at_the_program(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("disc.png").write_bytes(PICTURE)
    with pytest.warns(UserWarning, match=r"pathlib.Path\('disc.png'\)") as warned:
        model.encode("disc.png")
        model.encode(["a disc", "disc.png"])
    assert [one.filename for one in warned] == [__file__, __file__]


def test_what_cannot_be_encoded_is_refused_in_one_line(model, tmp_path):
    with pytest.raises(Refused, match=r"^role is 'author'; give 'query' or 'document'$"):
        model.encode("a disc", role="author")
    with pytest.raises(Refused, match=r"^batch_size is 0; give a whole number from 1$"):
        model.encode("a disc", batch_size=0)
    with pytest.raises(Refused, match=r"^b\[1\] is None; give a text"):
        model.similarity("a disc", ["a", None])
    checkpoints = make_twin(Path(tmp_path), UniVLDRConfig.FAMILIES[0], ["two small red stars"] * 10, SIZES, seed=0)
    univldr = Retriever(UniVLDR.build(checkpoints, UniVLDRConfig()).eval(), "univldr")
    with pytest.raises(Refused, match=r"^items\[1\] has video, and univldr reads text and image alone$"):
        univldr.encode(["a disc", {"video": [PICTURE]}])
