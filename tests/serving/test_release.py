"""A release: assembled only from parts that belong together, the same each time, verified on opening."""

import json
import shutil
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality, items_to_table
from mirepoix.serving.documents import THUMBNAIL, Documents, shown_source, thumbnail
from mirepoix.serving.golden import Golden
from mirepoix.serving.release import ENCODER_PARTS, assemble, folder_digest, item_sources, open_release, read_release
from mirepoix.serving.search.dense import build
from mirepoix.serving.search.open import open_index
from mirepoix.serving.store import Damaged, read_manifest
from tests.serving.fixtures import INSTRUCTIONS, corpus, drawing, golden_of, published, without_sources


@pytest.fixture
def copy(release_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release_folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def golden(parts) -> Golden:
    return golden_of(parts, corpus()[:1])


def test_a_release_holds_its_parts_and_describes_them(release_folder, parts):
    assert sorted(path.name for path in release_folder.iterdir()) == [
        "contents.npy",
        "documents",
        "encoder",
        "golden.json",
        "index",
        "manifest.json",
        "release.json",
    ]
    release = open_release(release_folder)
    assert (release.name, release.widths, release.instructions) == ("tiny", (16, 32), INSTRUCTIONS)
    assert release.encoder == folder_digest(parts["encoder_folder"]) == release.open_index().description.encoder
    assert len(release.version) == 12


def test_the_same_parts_give_the_same_bytes(release_folder, parts, tmp_path):
    again = published(tmp_path, parts)
    assert read_manifest(again).digest == read_manifest(release_folder).digest
    assert open_release(again).version == open_release(release_folder).version


def test_a_change_of_anything_gives_another_version(release_folder, parts, golden, tmp_path):
    versions = {open_release(release_folder).version, open_release(published(tmp_path / "a", parts, name="other")).version}
    draft = tmp_path / "b"
    draft.mkdir()
    versions.add(assemble(draft, "tiny", golden=golden, instructions=INSTRUCTIONS, widths=(16,), **parts).version)
    assert len(versions) == 3


def test_every_indexed_item_has_its_document_whatever_the_order_of_the_corpus(release_folder):
    release = open_release(release_folder)
    index, documents = release.open_index(), release.open_documents()
    assert len(documents) == len(index) == 60
    for item in corpus():
        position = index.position(item.id)
        document = documents[position]
        assert (document.id, document.text, document.modality, document.pictured) == (item.id, item.text, item.modality, bool(item.images))
        assert (documents.thumbnail(position) is not None) == bool(item.images)


@pytest.mark.parametrize(
    ("source", "line", "shown"),
    [
        ("emoji/Travel & Places/a.png", 1, "emoji/Travel & Places/a.png"),
        ("emoji/IMG.JPG", 1, "emoji/IMG.JPG"),
        ("shop/produkte.csv", 12, "shop/produkte.csv:12"),
        ("shop/produkte.csv", 0, "shop/produkte.csv"),
        ("shop/train.jsonl", 1, "shop/train.jsonl:1"),
        ("produkte.csv/produkte.csv", 12, "produkte.csv:12"),
        ("world", 3, None),
        ("", 0, None),
        ("emoji/", 1, None),
        ("/home/me/a.png", 1, None),
        ("~/a.png", 1, None),
        ("C:\\me/a.png", 1, None),
        ("s3://bucket/a.png", 1, None),
        ("../me/a.png", 1, None),
        ("emoji/../../me/a.png", 1, None),
        ("emoji/..a.png", 1, "emoji/..a.png"),
    ],
)
def test_a_source_is_shown_as_the_path_of_a_picture_or_the_line_of_a_file_and_never_as_a_path_of_the_machine(source, line, shown):
    assert shown_source(source, line) == shown


def test_documents_say_where_they_were_read_from(release_folder):
    index, documents = open_release(release_folder).open_index(), open_release(release_folder).open_documents()
    expected = {"text-03": "shop/produkte.csv:5", "picture-04": "emoji/Travel & Places/04.png", "both/00": None}
    assert {id: documents[index.position(id)].source for id in expected} == expected
    found = item_sources(release_folder)
    assert len(found) == 41 and found["shop/produkte.csv:5"] == ["text-03"] and found == documents.ids_by_source()
    with pytest.raises(Refused, match="holds no published release"):
        item_sources(release_folder / "index")


def test_a_release_holds_no_path_of_the_machine(release_folder):
    assert corpus()[40].source == "/home/me/own" and corpus()[40].id in (release_folder / "golden.json").read_text()
    assert not [path for path in release_folder.rglob("*") if path.is_file() and b"/home/me" in path.read_bytes()]


def test_a_release_that_was_written_without_sources_opens_and_shows_none(copy):
    before = read_release(shutil.copytree(copy, copy.parent / "before")).open_documents()
    without_sources(copy)
    documents = Documents(copy / "documents")
    assert [documents[n] for n in range(60)] == [before[n]._replace(source=None) for n in range(60)]
    assert documents.ids_by_source() == {} == item_sources(copy)
    (table,) = documents.tables(np.arange(60))
    assert table.schema == next(before.tables(np.arange(60))).schema and table["source"].null_count == 60


def test_what_was_indexed_is_found_by_itself(release_folder):
    release = open_release(release_folder)
    hits = release.open_index().search(release.open_encoder().encode(corpus()).ragged(), 1)
    assert [found[0].id for found in hits] == [item.id for item in corpus()]
    assert all(found[0].score == pytest.approx(1, abs=1e-4) for found in hits)


def test_a_thumbnail_is_small_and_of_the_same_look():
    large = Image.open(BytesIO(thumbnail(drawing("disc", 0.0, 400))))
    assert large.format == "JPEG" and large.size == (THUMBNAIL, THUMBNAIL)
    small = Image.open(BytesIO(thumbnail(drawing("disc", 0.0, 96))))
    assert small.format == "PNG" and np.array_equal(np.asarray(small), np.asarray(Image.open(BytesIO(drawing("disc", 0.0, 96)))))


def test_whatever_curation_kept_has_a_thumbnail():
    """Its limits are settings, and may be above those of a request."""
    buffer = BytesIO()
    Image.new("RGB", (240, 240), "red").save(buffer, "JPEG")
    assert Image.open(BytesIO(thumbnail(buffer.getvalue() + bytes(11 << 20)))).size == (THUMBNAIL, THUMBNAIL)


def test_golden_vectors_are_reproduced(release_folder):
    release = read_release(release_folder)
    assert release.verify(release.open_encoder()) >= 0.9999


def test_an_encoder_that_encodes_otherwise_is_refused(copy):
    release = read_release(copy)
    encoder = load_encoder(copy / "encoder")
    with torch.no_grad():
        encoder.model.language_model.norm.weight[::2] *= -1
    with pytest.raises(Refused, match=r"golden item 'text-00' comes out at cosine"):
        release.verify(encoder)


def test_golden_queries_are_reproduced_too(copy):
    golden = json.loads((copy / "golden.json").read_text())
    golden["queries"] = golden["queries"][::-1]
    (copy / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(Refused, match="comes out at cosine"):
        read_release(copy).open_encoder()


def test_golden_vectors_of_another_shape_are_refused(copy):
    golden = json.loads((copy / "golden.json").read_text())
    golden["vectors"][1] = golden["vectors"][1] * 2
    (copy / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(Refused, match="golden item 'picture-00' comes out at cosine nan"):
        read_release(copy).open_encoder()


@pytest.mark.parametrize(
    "name", ["encoder/model.safetensors", "index/index.faiss", "documents/documents.arrow", "golden.json", "release.json"]
)
def test_one_changed_byte_anywhere_keeps_a_release_from_opening(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(Damaged, match=name):
        open_release(copy)
    with nullcontext() if name.startswith(("index", "documents")) else pytest.raises(Damaged, match=name):
        open_release(copy, parts=ENCODER_PARTS)


def test_a_missing_file_keeps_a_release_from_opening(copy):
    (copy / "documents" / "order.npy").unlink()
    with pytest.raises(Damaged, match="order"):
        open_release(copy)


def test_a_release_is_copied_into_the_users_cache_where_no_other_is_given(release_folder, tmp_path, monkeypatch):
    copies = []
    monkeypatch.setattr("mirepoix.serving.release.fetch", lambda target, cache, _: copies.append(cache) or release_folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    open_release("s3://bucket/release")
    open_release("s3://bucket/release", tmp_path / "given")
    assert copies == [tmp_path / ".cache" / "mirepoix", tmp_path / "given"]


def test_an_unpublished_folder_does_not_open(copy):
    (copy / "manifest.json").unlink()
    with pytest.raises(Refused, match="never published"):
        open_release(copy)


def test_a_folder_that_is_no_release_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"release\.json"):
        read_release(tmp_path)


def test_an_index_of_another_encoder_is_refused(parts, tmp_path):
    items = corpus()
    encoder = load_encoder(parts["encoder_folder"])
    vectors = encoder.encode(items).ragged()
    for digest in ("", "0" * 64):
        build(vectors, [item.id for item in items], [item.modality for item in items], encoder=digest).save(tmp_path / "index")
        with pytest.raises(Refused, match="embed and index the corpus with this encoder"):
            assemble(tmp_path / "draft", "tiny", golden=Golden.encode(encoder, items[:1]), **{**parts, "index_folder": tmp_path / "index"})


def corpus_of(folder: Path, items: list[Item]) -> Path:
    folder.mkdir()
    pq.write_table(items_to_table(items), folder / "part-00000.parquet")
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda items: items[1:], "'text-00'"),
        (lambda items: [*items, items[0]], "two items with the id 'text-00'"),
        (lambda items: [Item("text-00", images=(drawing("bar", 0.1),)), *items[1:]], "'text-00' is 'i' in the corpus"),
    ],
)
def test_a_corpus_that_was_not_the_indexed_one_is_refused(parts, golden, tmp_path, change, words):
    changed = {**parts, "corpus_folder": corpus_of(tmp_path / "corpus", change(corpus()))}
    with pytest.raises(Refused, match=words):
        assemble(tmp_path / "draft", "tiny", golden=golden, **changed)


def test_items_that_were_not_indexed_are_left_out(parts, golden, tmp_path):
    changed = {**parts, "corpus_folder": corpus_of(tmp_path / "corpus", [*corpus(), Item("late", "came after the index")])}
    release = assemble(tmp_path / "draft", "tiny", golden=golden, **changed)
    assert len(release.open_documents()) == 60 and open_index(tmp_path / "draft" / "index").position("late") is None


def test_an_empty_corpus_folder_is_refused(parts, golden, tmp_path):
    (tmp_path / "corpus").mkdir()
    with pytest.raises(Refused, match=r"no \.parquet"):
        assemble(tmp_path / "draft", "tiny", golden=golden, **{**parts, "corpus_folder": tmp_path / "corpus"})


def test_a_release_without_golden_items_is_refused(parts, tmp_path):
    with pytest.raises(Refused, match="golden"):
        assemble(tmp_path / "draft", "tiny", golden=Golden([], [], []), **parts)


def test_an_index_of_another_width_than_the_golden_vectors_is_refused(parts, golden, tmp_path):
    narrow = Golden(golden.items, [rows_TD[:, :8] for rows_TD in golden.vectors], golden.queries)
    with pytest.raises(Refused, match="the index is 32 wide and the encoder 8"):
        assemble(tmp_path / "draft", "tiny", golden=narrow, **parts)


def test_assembling_reports_its_progress(parts, golden, tmp_path):
    seen: list[dict] = []
    assemble(tmp_path / "draft", "tiny", golden=golden, report=seen.append, **parts)
    assert seen[-1] == {"step": 60, "total": 60}


def test_the_modality_of_a_document_is_that_of_its_item(release_folder):
    documents = open_release(release_folder).open_documents()
    assert {documents[n].modality for n in range(60)} == {Modality.TEXT, Modality.IMAGE, Modality.TEXT | Modality.IMAGE}


def test_a_release_that_runs_code_of_its_checkpoint_says_so_and_is_opened_only_where_that_is_trusted(parts, golden, tmp_path):
    encoder = Path(shutil.copytree(parts["encoder_folder"], tmp_path / "encoder"))
    description = json.loads((encoder / "mirepoix.json").read_text())
    (encoder / "mirepoix.json").write_text(json.dumps(description | {"custom_code": True}))
    own = {**parts, "encoder_folder": encoder}
    rows = load_encoder(encoder, trust_remote_code=True).encode(corpus()).ragged()
    index = build(rows, [item.id for item in corpus()], [item.modality for item in corpus()], encoder=folder_digest(encoder))
    index.save(tmp_path / "index")
    draft = tmp_path / "draft"
    draft.mkdir()
    release = assemble(draft, "tiny", golden=golden, instructions=INSTRUCTIONS, **{**own, "index_folder": tmp_path / "index"})
    assert json.loads((draft / "release.json").read_text())["custom_code"] is True and release.custom_code
    with pytest.raises(
        Refused, match=r"^release tiny \w+ runs code that its checkpoint brought .*--trust-remote-code \(serve, export, add, remove\)"
    ):
        release.open_encoder()
    assert len(release.open_encoder(trust_remote_code=True).encode(corpus()[:1])) == 1
    with pytest.raises(Refused, match="runs code that its checkpoint brought"):
        load_encoder(encoder)


def test_a_release_without_code_says_nothing_of_it(release_folder):
    assert "custom_code" not in json.loads((release_folder / "release.json").read_text())
    assert not read_release(release_folder).custom_code
