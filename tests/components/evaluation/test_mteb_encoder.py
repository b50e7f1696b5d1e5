"""mteb measures a release and an encoder of several rows an item as our own index and trec_eval do, and says in which words it asked."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mirepoix.components.evaluation import mteb_encoder
from mirepoix.components.evaluation.files.results import Scored, write_task_results
from mirepoix.components.evaluation.files.runs import read_run
from mirepoix.components.evaluation.files.scores import score
from mirepoix.components.evaluation.mteb_encoder import MtebEncoder, weights_digest
from mirepoix.components.evaluation.scoring.measures import measures
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.encoder import Encoder, load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.retrievers.mire import Mire
from mirepoix.models.retrievers.mire_config import MireConfig
from mirepoix.serving.release import open_release
from mirepoix.serving.search.dense import build
from tests.components.evaluation.mteb_tasks import CLIPS, INSTRUCTED, TASKS, judgements
from tests.components.fixtures import SIZES
from tests.serving.conftest import encoder_folder, parts, release_folder
from tests.serving.fixtures import INSTRUCTIONS, corpus
from tests.vision import with_mteb

__all__ = ["encoder_folder", "parts", "release_folder"]
ASKED = {"CaptionedShapes": INSTRUCTIONS[""], "ShapesToTexts": INSTRUCTIONS["i->t"], "InstructedShapes": INSTRUCTED}
MEASURES = {"nDCG@10": "ndcg_at_10", "R@5": "recall_at_5", "AP@100": "map_at_100", "RR@10": "mrr_at_10", "P@5": "precision_at_5"}
SCORED = [
    Scored("Own", "own/set", split, {"nDCG@10": 0.25, "Success@1": value}, "Success@1") for split, value in (("test", 0.5), ("dev", 1.0))
]


@pytest.fixture(scope="module")
def encoder(encoder_folder) -> Encoder:
    return load_encoder(encoder_folder)


@pytest.fixture(scope="module")
def late_folder(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("mire")
    checkpoints = make_twin(home / "backbone", MireConfig.FAMILIES[0], [item.text for item in corpus() if item.text], SIZES, seed=0)
    Mire.build(checkpoints, MireConfig()).save(home / "late")
    return home / "late"


@pytest.fixture(scope="module")
def late(late_folder) -> Encoder:
    return load_encoder(late_folder)


@pytest.fixture(scope="module")
def measured(release_folder, late_folder, tmp_path_factory) -> tuple[dict, Path]:
    """What mteb found in a process of its own, and the folder of its files."""
    folder = tmp_path_factory.mktemp("measured")
    write_task_results(folder / "results", SCORED)
    ran = with_mteb("from tests.components.evaluation.mteb_tasks import main; main()", folder, release_folder, late_folder)
    assert ran.returncode == 0, ran.stderr
    return json.loads((folder / "found.json").read_text()), folder


def ours(encoder: Encoder, task: str, instruction: str) -> dict[str, dict[str, float]]:
    """The scores of all documents by our own index."""
    _, queries, documents = TASKS[task]
    index = build(encoder.encode(documents).ragged(), [item.id for item in documents], [item.modality for item in documents])
    asked = [Item(item.id, item.text, item.images, instruction=instruction) for item in queries]
    hits = index.search(encoder.encode(asked, role="query").ragged(), len(documents))
    return {query.id: {hit.id: hit.score for hit in found} for query, found in zip(queries, hits, strict=True)}


@pytest.mark.parametrize(("system", "task"), [*(("release", task) for task in TASKS), ("late", "CaptionedShapes")])
def test_scores_are_those_of_our_own_index_and_of_trec_eval(measured, encoder, late, system, task):
    found, folder = measured
    own = ours(late, task, "") if system == "late" else ours(encoder, task, ASKED[task])
    run = list(read_run(folder / system / f"{task}_predictions.json"))
    assert {ranking.query for ranking in run} == own.keys()
    for ranking in run:
        assert dict(zip(ranking.ids, ranking.scores, strict=True)) == pytest.approx(own[ranking.query], rel=1e-6, abs=1e-6)
    means = score(run, judgements(task), measures(MEASURES, "MEASURES")).means
    there = found[system]["scores"][task]
    for ours_name, name in MEASURES.items():  # mteb rounds all but the reciprocal rank to five digits
        assert there[name] == pytest.approx(round(means[ours_name], 9 if name == "mrr_at_10" else 5), abs=1e-6)
    assert there["main_score"] == there["ndcg_at_10"]


def test_the_log_says_once_for_each_task_in_which_words_it_was_asked(measured):
    lines = [
        line for line in (measured[1] / "log").read_text().splitlines() if line.startswith("mirepoix.components.evaluation.mteb_encoder")
    ]
    said = [line.partition(" INFO ")[2] for line in lines]
    assert said[:2] == [
        "CaptionedShapes: queries are encoded with the general instruction of the release, which has none for t->it: 'Find what fits.'",
        "CaptionedShapes: documents are encoded without an instruction",
    ]
    assert "ShapesToTexts: queries are encoded with the instruction of the release for i->t: 'Find a text about this picture.'" in said
    assert f"InstructedShapes: queries are encoded each with its own instruction, such as: '{INSTRUCTED}'" in said
    assert "CaptionedShapes: queries are encoded without an instruction" in said[6:]  # by the encoder that is of no release
    assert len(said) == len(set(said)) + 2  # documents of CaptionedShapes by both encoders, and the clips with either sampling
    assert "not valid" not in (measured[1] / "log").read_text()


def test_mteb_is_told_what_the_encoder_is(measured, release_folder, encoder, late):
    found, folder = measured
    release = open_release(release_folder)
    meta = found["release"]["meta"]
    told = {name: meta[name] for name in ("name", "revision", "embed_dim", "max_tokens", "modalities", "model_type", "use_instructions")}
    assert told == {
        "name": "mirepoix/tiny",
        "revision": release.version,
        "embed_dim": 32,
        "max_tokens": 2048,
        "modalities": ["text", "image", "video"],
        "model_type": ["dense"],
        "use_instructions": True,
    }
    assert meta["similarity_fn_name"] == "cosine" and meta["n_parameters"] == sum(each.numel() for each in encoder.parameters())
    meta = found["late"]["meta"]
    assert (meta["name"], meta["revision"], meta["embed_dim"], meta["max_tokens"]) == ("mirepoix/late", weights_digest(late), 128, 180)
    assert (meta["similarity_fn_name"], meta["model_type"], meta["use_instructions"]) == ("MaxSim", ["late-interaction"], False)
    assert (folder / "release/cache/results/mirepoix__tiny" / release.version / "CaptionedShapes.json").is_file()


def test_clips_are_read_as_frames_that_are_evenly_spaced_or_so_many_a_second(measured, encoder):
    from PIL import Image

    from mirepoix.serving.pictures import encoded

    def clip(colours):
        return Item("x", video=tuple(encoded(Image.new("RGB", (64, 64), (colour,) * 3), "PNG") for colour in colours))

    def taken(count):
        chosen = [np.linspace(0, len(colours) - 1, count).round().astype(int) for colours in CLIPS]
        return [clip(np.array(colours)[places].tolist()) for colours, places in zip(CLIPS, chosen, strict=True)]

    first, second = taken(32)[0], clip([CLIPS[1][place * 10 // 32] for place in range(32)])  # a shorter clip's frames are repeated
    for name, clips in (("default", [first, second]), ("fps", [taken(8)[0], taken(5)[1]])):  # 20 and 5 seconds, of which 8 frames at most
        assert np.abs(np.array(measured[0]["clips"][name]) - encoder.encode(clips).rows_NTD[:, 0].numpy()).max() < 1e-5
    assert measured[0]["clips"]["default"] != measured[0]["clips"]["fps"]


def test_results_that_we_write_are_results_to_mteb(measured):
    assert measured[0]["results"] == {"Own": [0.75, ["test", "dev"], ["default"]]}


def metadata(**more) -> SimpleNamespace:
    return SimpleNamespace(
        **{"name": "Task", "category": "t2i", "prompt": None, "simplified_task_type": "retrieval", "modalities": []} | more
    )


def columns(rows: list[dict]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def encode(model: MtebEncoder, rows: list[dict], prompt_type: str | None = "query", **more) -> torch.Tensor:
    task = more.pop("task", None) or metadata()
    loader = DataLoader(rows, batch_size=2, collate_fn=columns)
    about = {"hf_split": "test", "hf_subset": "default", "prompt_type": prompt_type, "show_progress_bar": False}
    return model.encode(loader, task_metadata=task, **about | more)


@pytest.mark.parametrize(
    ("instructions", "prompt", "worded"),
    [
        (None, "Of the task.", INSTRUCTIONS["t->i"]),
        ("task", "Of the task.", "Of the task."),
        ("task", {"query": "Of its queries.", "document": "Of its documents."}, "Of its queries."),
        ("task", None, INSTRUCTIONS["t->i"]),
        ({"Task": "By name.", "t->i": "By kind.", "": "By default."}, "Of the task.", "By name."),
        ({"t->i": "By kind.", "": "By default."}, None, "By kind."),
        ({"it->it": "Of others.", "": "By default."}, None, "By default."),
        ({"it->it": "Of others."}, None, INSTRUCTIONS["t->i"]),
        ({"": ""}, None, ""),
    ],
)
def test_queries_are_asked_in_the_words_that_were_chosen(encoder, caplog, instructions, prompt, worded):
    model = MtebEncoder(encoder, "x", release_instructions=INSTRUCTIONS, instructions=instructions)
    with caplog.at_level("INFO"):
        (found,) = encode(model, [{"text": "a disc"}], task=metadata(prompt=prompt))
    assert found == pytest.approx(encoder.encode([Item("x", "a disc", instruction=worded)], role="query").rows_NTD[0, 0], abs=1e-6)
    (said,) = (record.getMessage() for record in caplog.records if record.name.endswith("mteb_encoder"))
    assert said.endswith(f": {worded!r}") if worded else said.endswith("without an instruction")
    of_documents = prompt["document"] if isinstance(prompt, dict) else ""
    (document,) = encode(model, [{"text": "a disc"}], "document", task=metadata(prompt=prompt))
    assert document == pytest.approx(encoder.encode([Item("x", "a disc", instruction=of_documents)]).rows_NTD[0, 0], abs=1e-6)


def test_a_query_with_an_instruction_of_its_own_has_that_and_no_other(encoder):
    model = MtebEncoder(encoder, "x", release_instructions=INSTRUCTIONS, instructions={"": "Not this."})
    (found,) = encode(model, [{"text": "a disc Only blue.", "query": "a disc", "instruction": "Only blue."}])
    assert found == pytest.approx(encoder.encode([Item("x", "a disc", instruction="Only blue.")], role="query").rows_NTD[0, 0], abs=1e-6)


@pytest.mark.parametrize("category", [None, "t2c"])
def test_a_task_that_names_no_documents_is_asked_in_the_general_words(encoder, category):
    model = MtebEncoder(encoder, "x", release_instructions=INSTRUCTIONS)
    (found,) = encode(model, [{"text": "a disc"}], task=metadata(category=category))
    assert found == pytest.approx(
        encoder.encode([Item("x", "a disc", instruction="Find what fits.")], role="query").rows_NTD[0, 0], abs=1e-6
    )


@pytest.mark.parametrize("which", ["encoder", "late"])
def test_a_row_with_nothing_in_it_ranks_behind_all_others(which, request, caplog):
    encoder = request.getfixturevalue(which)
    model = MtebEncoder(encoder, "x")
    queries = encode(model, [{"text": "a disc"}, {"text": "two small stars"}])
    documents = encode(model, [{"text": text} for text in ("", "a disc", " \n", "a red bar")], "document")
    assert "Task: 2 of 4 documents are empty, and rank behind all others" in caplog.text
    assert len(documents) == 4 and not documents[[0, 2]].any()
    scores = model.similarity(queries, documents)
    assert (scores[:, [0, 2]].max(1).values < scores[:, [1, 3]].min(1).values).all() and torch.isfinite(scores).all()
    assert not encode(model, [{"text": ""}], "document").any()


@pytest.mark.parametrize("which", ["encoder", "late"])
def test_similarities_are_those_of_each_pair_wherever_the_vectors_come_from(which, request, monkeypatch):
    monkeypatch.setattr(mteb_encoder, "DOCUMENTS", 2)  # in blocks of two, and of one
    encoder = request.getfixturevalue(which)
    model = MtebEncoder(encoder, "x")
    texts = ["a disc", "two small red stars in a row", "bar"]
    first, second = encode(model, [{"text": text} for text in texts]), encode(model, [{"text": text} for text in texts[::-1]], "document")
    scores = model.similarity(first.numpy(), second)
    rows = [encoder.encode([Item(text, text) for text in texts], role=role).ragged() for role in ("query", "document")]
    expected = [[(query @ document.T).max(1).sum() for document in list(rows[1])[::-1]] for query in rows[0]]
    assert scores.numpy() == pytest.approx(np.array(expected), abs=1e-5)
    assert model.similarity_pairwise(first, second) == pytest.approx(scores.diagonal(), rel=1e-6)
    assert model.similarity(first[0], second)[0] == pytest.approx(scores[0], rel=1e-6)  # one query, as tasks of reranking ask


class Sounds(list):
    features = ("text", "audio")


def test_what_the_encoder_does_not_read_is_refused_in_one_line(encoder, late):
    model, multi = MtebEncoder(encoder, "x"), MtebEncoder(late, "x")
    about = {"task_metadata": metadata(modalities=["text", "audio"]), "hf_split": "test", "hf_subset": "default"}
    with pytest.raises(
        Refused, match=r"^Task has audio, which no encoder here reads; leave the task out: its modalities are \['text', 'audio'\]$"
    ):
        model.encode(DataLoader(Sounds([{"text": "a", "audio": 1}])), **about)
    with pytest.raises(Refused, match=r"^Task: document 7 has video, and mire reads text and image alone; leave the task out$"):
        encode(multi, [{"id": "7", "video": np.zeros((1, 3, 8, 8), np.uint8)}], "document")
    with pytest.raises(Refused, match=r"^Task takes one vector an item, and mire has several; leave the task out$"):
        encode(multi, [{"text": "a"}], None, task=metadata(simplified_task_type="classification"))
    with pytest.raises(Refused, match=r"^precision is 'int8', and vectors are float32; leave precision out$"):
        encode(model, [{"text": "a"}], precision="int8")
    with pytest.raises(Refused, match=r"^Task has no rows to encode in default, test$"):
        encode(model, [])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"instructions": "mine"}, r"instructions are 'mine'; give \"task\", words by task"),
        ({"num_frames": 8, "fps": 1}, r"num_frames is 8 and fps 1; give one of the two"),
        ({"max_frames": 8}, r"max_frames is 8, and bounds the frames that fps takes; give fps too, or num_frames alone"),
    ],
)
def test_options_that_do_not_fit_are_refused(encoder, options, why):
    with pytest.raises(Refused, match=why):
        MtebEncoder(encoder, "x", **options)


def test_the_digest_of_weights_changes_with_any_of_them(encoder_folder):
    encoder = load_encoder(encoder_folder)
    before = weights_digest(encoder)
    assert before == weights_digest(load_encoder(encoder_folder)) and len(before) == 12
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[0] += 1e-3
    assert weights_digest(encoder) != before
