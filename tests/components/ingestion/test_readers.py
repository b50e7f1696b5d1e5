"""Every row that is read, in any format, is written, merged, or rejected with its line."""

import gzip
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirepoix.components import ray_tasks
from mirepoix.components.corpus.parts import read_part
from mirepoix.components.ingestion import readers, sources
from mirepoix.components.ingestion.sources import fingerprint, opened
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.models.errors import Refused
from tests.components.fixtures import made
from tests.components.ingestion.formats.format_cases import picture, write_files

UNITE = {"query": {"text": "who ?"}, "candidate": {"text": "he"}}
PAIR = {"query": "who ?", "pos": ["he"], "neg": []}
FACT = {"snippet_id": "d1", "fact": "It is he."}
ASKED = {"qid": "q1", "Q": "Who ?", "txt_posFacts": ["d1"]}


def bring(home, *paths, **settings):
    return made(home / "out", sources.work, SourcesConfig(path=tuple(map(str, paths)), **settings))


def part(found, name):
    return read_part(found.folder, name).to_pylist()


def rejects(found):
    return [(row["part"], row["id"], row["reason"], row["source"].partition("/")[2], row["line"]) for row in part(found, "rejects")]


@pytest.mark.parametrize(
    ("files", "lost"),
    [
        ({"train.jsonl": [UNITE, UNITE | {"extra": 1}]}, [("queries", "", "unread column", "train.jsonl", 2)]),
        ({"train.jsonl": [PAIR, PAIR | {"extra": 1}]}, [("queries", "", "unread column", "train.jsonl", 2)]),
        (
            {"all_docs.json": [FACT, FACT | {"snippet_id": "d2", "extra": 1}], "train.json": [ASKED, {**ASKED, "qid": "q2", "extra": 1}]},
            [("corpus", "d2", "unread column", "all_docs.json", 2), ("queries", "q2", "unread column", "train.json", 2)],
        ),
    ],
    ids=["unite", "flagembedding", "webqa"],
)
def test_a_row_with_a_column_that_nothing_reads_is_rejected_with_its_line(tmp_path, files, lost):
    found = bring(tmp_path, write_files(tmp_path / "in", files))
    rows = found.outcome.rows
    assert rejects(found) == lost and found.outcome.tables["notices"] == []
    assert (rows.read, rows.written, rows.rejected) == (3 + len(lost), 3, len(lost))


def test_ignored_columns_are_reported_once_and_are_no_row(tmp_path, monkeypatch):
    lines = [{"file": "a.png", "text": "one", "width": 4}] * 40
    folder = write_files(tmp_path / "in", {"a.png": picture(1), "captions.jsonl": lines})
    monkeypatch.setattr("mirepoix.components.ingestion.formats.source_files.SHARD_BYTES", 400)
    assert len(readers.open_sources((str(folder),))[0].shards) > 3
    found = bring(tmp_path, folder)
    assert found.outcome.tables["notices"] == [
        {"source": "in/captions.jsonl", "detail": "the column width is not read; the rows are read without it"}
    ]
    rows = found.outcome.rows
    assert rows.rejected == 0 and rows.read == rows.written + rows.merged
    assert all(part != "notices" for part in {row["part"] for row in found.outcome.tables["sources"]})


def test_notices_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "NOTICES", 2)
    files = {f"captions_{n}.jsonl": [{"file": "a.png", "text": "one", "width": 4}] for n in range(4)}
    assert len(bring(tmp_path, write_files(tmp_path / "in", {"a.png": picture(1), **files})).outcome.tables["notices"]) == 2


def test_ids_that_begin_anew_in_each_split_are_rejected_with_all_that_is_judged_of_them(tmp_path):
    shown = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = {"train": ["a star", "a disc"], "test": ["a ring", "a cube"]}
    (tmp_path / "in").mkdir()
    for shade, (split, captions) in enumerate(texts.items()):
        pictures = [{"bytes": picture(10 * shade + n), "path": ""} for n in range(2)]
        columns = {"id": pa.array([0, 1]), "image": pa.array(pictures, shown), "text": pa.array(captions)}
        pq.write_table(pa.table(columns), tmp_path / "in" / f"{split}.parquet")
    found = bring(tmp_path, f"hf-images+{tmp_path}/in")
    corpus = {row["id"]: row for row in part(found, "corpus")}
    asked = {row["id"]: row for row in part(found, "queries")}
    for row in part(found, "qrels"):
        item, query = corpus[row["item_id"]], asked[row["query_id"]]
        assert (item["source"], item["line"]) == (query["source"], query["line"]), "a judgement joins the two sides of its own row"
    first = "test.parquet"  # files are read in the order of their names
    assert {row["source"] for row in corpus.values() if row["images"]} == {f"in/{first}"}
    lost = rejects(found)
    assert {reject[2:4] for reject in lost} == {("duplicate id", "train.parquet")}
    assert sorted(reject[0] for reject in lost) == ["corpus"] * 2 + ["qrels"] * 4 + ["queries"] * 2
    rows = found.outcome.rows
    assert rows.read == rows.written + rows.rejected + rows.merged


def test_a_repeated_equal_row_keeps_its_judgements(tmp_path):
    fact = [FACT, FACT]
    found = bring(tmp_path, write_files(tmp_path / "in", {"all_docs.json": fact, "train.json": [ASKED]}))
    assert rejects(found) == [("corpus", "d1", "duplicate id", "all_docs.json", 2)] and len(part(found, "qrels")) == 1


def test_a_split_is_renamed_in_one_source_or_in_all(tmp_path):
    for name in ("a", "b", "c"):
        write_files(tmp_path / name, {"dev.jsonl": [PAIR], "test.jsonl": [PAIR]})
    paths = [tmp_path / name for name in ("a", "b", "c")]
    found = bring(tmp_path, *paths, splits=("validation=train", "b:validation=mine", "b:test=train"))
    splits = {(row["id"].partition("/")[0], row["split"]) for row in part(found, "queries")}
    assert splits == {("a", "train"), ("a", "test"), ("b", "mine"), ("b", "train"), ("c", "train"), ("c", "test")}
    with pytest.raises(Refused, match="no source is called 'd'; the sources are a"):
        fingerprint(opened(SourcesConfig(path=(str(paths[0]),), splits=("d:dev=train",))))
    with pytest.raises(Refused, match="or NAME:old=new"):
        SourcesConfig(splits=("a:b:c=d",))


def test_a_folder_of_the_name_of_a_split_is_that_split(tmp_path):
    write_files(tmp_path / "test", {"a.png": picture(1), "captions.jsonl": [{"file": "a.png", "text": "one"}]})
    assert {row["split"] for row in part(bring(tmp_path, tmp_path / "test"), "queries")} == {"test"}


def test_the_two_sources_that_collide_are_named(tmp_path):
    for name in ("x", "one/y", "two/y"):
        write_files(tmp_path / name, {"train.jsonl": [PAIR]})
    with pytest.raises(Refused) as refused:
        readers.open_sources((f"{tmp_path}/x", f"{tmp_path}/one/y", f"y=flagembedding+{tmp_path}/two/y"))
    assert f"one={tmp_path}/one/y another=flagembedding+{tmp_path}/two/y" in str(refused.value)


def test_a_row_that_no_table_can_hold_costs_itself_alone(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in (PAIR, {**PAIR, "query": "\ud83d"}, {**PAIR, "query": "what ?"}))
    found = bring(tmp_path, write_files(tmp_path / "in", {"train.jsonl": text}))
    assert rejects(found) == [("queries", "", "bad row", "train.jsonl", 2)] and len(part(found, "queries")) == 2


UNSOUND = {
    "array.json": "[" + ",\n".join([json.dumps(UNITE), json.dumps(UNITE | {"candidate": {}}), '{"query":,}', json.dumps(UNITE)]) + "]",
    "lines.jsonl": "{broken\n" + json.dumps(UNITE) + "\n" + json.dumps(UNITE | {"extra": 1}) + "\n",
    "packed.jsonl.gz": gzip.compress("".join(json.dumps({**UNITE, "query": {"text": f"{n}"}}) + "\n" for n in range(900)).encode())[:-40],
}


@pytest.mark.parametrize("workers", [False, True])
def test_where_a_file_breaks_off_all_other_rows_are_checked_before_it_is_refused(tmp_path, monkeypatch, request, workers):
    if workers:
        request.getfixturevalue("ray_cluster")
        monkeypatch.setattr(ray_tasks, "SMALL_BYTES", 0)
    with pytest.raises(Refused, match=r"^2 files cannot be read; the first: in/array.json line 3 is no JSON \(.*\); repair or shorten"):
        bring(tmp_path, f"unite+{write_files(tmp_path / 'in', UNSOUND)}")
    rejected = read_part(tmp_path / "out" / "draft", "rejects").to_pylist()
    cut = rejected[-1]["line"]
    assert cut > 1 and f"after line {cut - 1}" in rejected[-1]["detail"]
    assert [(row["part"], row["id"], row["reason"], row["source"], row["line"]) for row in rejected] == [
        ("queries", "", "empty side", "in/array.json", 2),
        ("file", "array.json", "unreadable", "in/array.json", 3),
        ("queries", "", "bad JSON", "in/lines.jsonl", 1),
        ("queries", "", "unread column", "in/lines.jsonl", 3),
        ("file", "packed.jsonl.gz", "unreadable", "in/packed.jsonl.gz", cut),
    ]
    assert rejected[1]["detail"].startswith("line 3 is no JSON (Expecting value)")


def test_parquet_without_a_footer_does_not_hide_the_rejects_of_other_files(tmp_path):
    rows = [{"anchor": "a", "positive": "b"}, {"anchor": "", "positive": "b"}]
    good = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), good)
    whole = good.getvalue().to_pybytes()
    with pytest.raises(Refused, match=r"^in/a.parquet cannot be read as Parquet"):
        bring(tmp_path, f"sentence-transformers+{write_files(tmp_path / 'in', {'a.parquet': whole[:-9], 'b.parquet': whole})}")
    rejected = read_part(tmp_path / "out" / "draft", "rejects").to_pylist()
    assert [(row["reason"], row["source"], row["line"]) for row in rejected] == [
        ("unreadable", "in/a.parquet", 0),
        ("empty side", "in/b.parquet", 2),
    ]


def test_ids_that_the_rest_of_a_broken_file_may_define_are_not_reported_as_unknown(tmp_path):
    corpus = gzip.compress(b"".join(json.dumps({"_id": n, "text": f"{n}"}).encode() + b"\n" for n in range(500)))[:-40]
    files = {"corpus.jsonl.gz": corpus, "queries.jsonl": [{"_id": "q", "text": "q"}], "qrels/test.tsv": "q\t499\t1\n"}
    with pytest.raises(Refused, match=r"^in/corpus.jsonl.gz cannot be unpacked after line \d+"):
        bring(tmp_path, write_files(tmp_path / "in", files))
    assert [row["reason"] for row in read_part(tmp_path / "out" / "draft", "rejects").to_pylist()] == ["unreadable"]


def test_captions_whose_quotes_never_end_cost_the_other_captions_nothing(tmp_path):
    files = {"a.png": picture(1), "captions_a.csv": 'file,text\na.png,one\na.png,"two\n', "captions_b.csv": "file,text\na.png,\n"}
    with pytest.raises(Refused, match=r"^in/captions_a.csv cannot be read after line 2"):
        bring(tmp_path, write_files(tmp_path / "in", files))
    rejected = read_part(tmp_path / "out" / "draft", "rejects").to_pylist()
    assert [(row["reason"], row["source"], row["line"]) for row in rejected] == [
        ("unreadable", "in/captions_a.csv", 3),
        ("empty side", "in/captions_b.csv", 2),
    ]


def test_a_source_whose_first_line_is_broken_is_detected_by_the_next(tmp_path):
    found = bring(tmp_path, write_files(tmp_path / "in", {"train.jsonl": "{broken\n" + json.dumps(PAIR) + "\n"}))
    assert rejects(found) == [("queries", "", "bad JSON", "train.jsonl", 1)] and len(part(found, "queries")) == 1


def test_a_source_of_no_known_format_is_refused_with_the_reason(tmp_path):
    folder = write_files(tmp_path / "in", {"train.jsonl": "{broken\n"})
    with pytest.raises(
        Refused, match=r"none of the known formats \(in/train.jsonl: line 1 is no JSON object \(Expecting .*\)\); name one as"
    ):
        readers.open_sources((str(folder),))


PICTURES = {"a.png": picture(1), "beach/b.jpg": picture(2, "JPEG"), "beach/2024/c.webp": picture(3, "WEBP")}


def test_a_plain_folder_with_some_other_files_is_one_of_pictures_and_counts_them(tmp_path):
    others = {"notes.txt": "x", "beach/a.txt": "x", "settings.json": '{\n  "title": "a"\n}\n', "README.md": "x", "beach/IMG_1.HEIC": b"x"}
    found = bring(tmp_path, write_files(tmp_path / "in", PICTURES | others))
    assert [row["id"] for row in part(found, "corpus")] == ["a.png.image", "beach/2024/c.webp.image", "beach/b.jpg.image"]
    assert [(row["source"], row["detail"]) for row in found.outcome.tables["notices"]] == [
        ("in/beach/IMG_1.HEIC", "not read: the format reads no such files"),
        ("in/beach/a.txt", "not read and 1 more of .txt: the format reads no such files"),
        ("in/settings.json", "not read: the format reads no such files"),
    ]
    assert not part(found, "queries") and not part(found, "rejects")


@pytest.mark.parametrize(
    "others",
    [
        {"sizes.csv": "image,width\na.png,4\n"},
        {"train.jsonl": [{"what": "a"}]},
        {"rows.json": [{"what": "a"}, {"what": "b"}]},
        {"broken.json": "{"},
    ],
    ids=lambda others: " ".join(others),
)
def test_pictures_with_what_may_be_captions_or_rows_are_of_no_known_format(tmp_path, others):
    folder = write_files(tmp_path / "in", PICTURES | others)
    with pytest.raises(
        Refused,
        match=rf"looks like none of the known formats.*; folder\+{folder} reads its pictures alone; mirepoix init {folder} proposes",
    ):
        readers.open_sources((str(folder),))
    (source,) = readers.open_sources((f"folder+{folder}",))
    assert len(source.files) == 3


def test_captions_together_are_for_formats_that_have_captions(tmp_path):
    folder = write_files(tmp_path / "in", {"train.jsonl": [PAIR]})
    words = r"sources\.captions is together, which is for webdataset, hf-images, folder, table, and the format is flagembedding; give apart"
    with pytest.raises(Refused, match=words):
        readers.open_sources((str(folder),), captions="together")
    mixed = readers.open_sources((str(folder), str(write_files(tmp_path / "pictures", PICTURES))), captions="together")
    assert [source.format for source in mixed] == ["flagembedding", "folder"]


def test_columns_of_a_source_that_is_not_there_and_of_no_source_are_refused(tmp_path):
    folder = write_files(tmp_path / "in", {"rows.csv": "a,b\n1,2\n"})
    with pytest.raises(Refused, match=r"sources\.columns has 'on:text=a', and no source is called 'on'; the sources are in"):
        sources.opened(SourcesConfig(path=(str(folder),), columns=("text=a", "on:text=a")))
    for config in (SourcesConfig(columns=("text=a",)), SourcesConfig(captions="together")):
        with pytest.raises(Refused, match=r"and sources\.captions are for corpora, and sources\.path names none; give a path"):
            made(tmp_path / f"out{len(config.columns)}", sources.work, config)


def test_large_tables_and_sidecars_are_read_in_pieces_as_they_are_at_once(tmp_path, monkeypatch):
    rows = [{"p": f"i/{n}.png", "t": f"caption {n}", "q": f"query {n % 3}"} for n in range(9)]
    folder = write_files(tmp_path / "in", {**{f"i/{n}.png": picture(n) for n in range(12)}, "rows.jsonl": rows, "i/11.txt": "beside"})
    configs = [
        SourcesConfig(path=(str(folder),), columns=("picture=p", "text=t")),
        SourcesConfig(path=(str(folder),), columns=("picture=p", "text=t"), captions="together"),
        SourcesConfig(path=(str(folder),), columns=("picture=p", "text=t", "query=q")),
        SourcesConfig(path=(f"folder+{folder}",), captions="together"),
    ]
    at_once = [part(made(tmp_path / f"once{n}", sources.work, config), "corpus") for n, config in enumerate(configs)]
    monkeypatch.setattr("mirepoix.components.ingestion.formats.source_files.SHARD_BYTES", 200)
    monkeypatch.setattr("mirepoix.components.ingestion.formats.listed_pictures.PICTURES", 2)
    for n, config in enumerate(configs):
        assert len(sources.opened(config)[0].shards) >= 5
        pieces = part(made(tmp_path / f"pieces{n}", sources.work, config), "corpus")
        assert pieces == at_once[n] and len({row["id"] for row in pieces}) == (21, 12, 12, 12)[n]


def test_an_empty_folder_is_refused_as_that(tmp_path):
    (tmp_path / ".hidden").write_text("x")
    with pytest.raises(Refused, match=r"there is no file in '.*'; give a folder with a corpus"):
        readers.open_sources((str(tmp_path),))


def test_what_is_judged_twice_reaches_curation(tmp_path):
    found = bring(tmp_path, write_files(tmp_path / "in", {"train.jsonl": [{"query": "a", "pos": ["b", "b"], "neg": ["b", "c", "c"]}]}))
    texts = {row["id"]: row["text"] for row in part(found, "corpus")}
    assert [(texts[row["item_id"]], row["relevance"]) for row in part(found, "qrels")] == [("b", 1), ("b", 0), ("c", 0)]
    rows = found.outcome.rows
    assert (rows.read, rows.written, rows.merged, rows.rejected) == (8, 6, 2, 0)


@pytest.mark.parametrize("name", ["lang=en", "beir+en", "a=beir+en"])
def test_a_path_that_is_there_is_a_path_whatever_it_looks_like(tmp_path, monkeypatch, name):
    write_files(tmp_path / name, {"train.jsonl": [PAIR]})
    monkeypatch.chdir(tmp_path)
    for entry in (name, f"mine=flagembedding+{name}"):
        (source,) = readers.open_sources((entry,))
        assert (source.tree.name, source.tree.path, source.format) == ("mine" if entry != name else name, name, "flagembedding")


def test_files_that_may_hold_rows_and_are_not_read_are_reported(tmp_path):
    folder = write_files(tmp_path / "in", {"train.jsonl": [PAIR], "x.jsonl.zst": b"x", "y.jsonl.zst": b"y"})
    notice = {"source": "in/x.jsonl.zst", "detail": "not read and 1 more of .jsonl.zst: the format reads no such files"}
    assert bring(tmp_path, folder).outcome.tables["notices"] == [notice]


BEIR = {
    "corpus.jsonl": [{"_id": "d1", "text": "x"}],
    "queries.jsonl": [{"_id": "q1", "text": "?"}],
    "qrels/test.tsv": "q1\td1\t1\n",
}


def test_a_split_that_no_file_is_of_is_refused_before_anything_is_read(tmp_path):
    folder = write_files(tmp_path / "in", BEIR)
    with pytest.raises(Refused, match=r"only_splits names 'train', and no query is of it; there are queries of mine, after"):
        readers.open_sources((f"beir+{folder}",), splits=("test=mine",), only_splits=("mine", "train"))
    rows = write_files(tmp_path / "rows", {"train.jsonl": [PAIR]})
    assert len(readers.open_sources((f"beir+{folder}", str(rows)), only_splits=("train",))) == 2, "one format has its splits in its rows"


def test_uniirs_texts_are_for_mbeir_alone(tmp_path):
    folder = write_files(tmp_path / "in", BEIR)
    with pytest.raises(Refused, match=r"sources.uniir_texts is for mbeir, and the format is beir; give false"):
        readers.open_sources((str(folder),), uniir_texts=True)


def test_a_worker_knows_which_splits_are_read_and_how(tmp_path):
    folder = write_files(tmp_path / "in", {"cand_pool/local/a.jsonl": [], "query/test/a.jsonl": []})
    (source,) = readers.open_sources((str(folder),), splits=("dev=test",), only_splits=("test",), uniir_texts=True, only_datasets=("a*",))
    tree = pickle.loads(pickle.dumps(source.tree))
    assert [tree.reads(split) for split in ("dev", "test", "train")] == [True, True, False] and tree.uniir_texts
    assert [tree.reads_dataset(*names) for names in (("a_task1", "a"), ("b", "ab"), ("b",))] == [True, True, False]
    assert tree.listing == source.tree.listing


def test_pictures_of_which_only_some_may_be_read_are_no_certain_room(tmp_path):
    files = {"cand_pool/local/a.jsonl": [], "query/test/a.jsonl": [], "mbeir_images/1.png": b"12345"}
    folder = write_files(tmp_path / "in", files)

    def room(**settings):
        return readers.open_sources((str(folder),), **settings)[0].picture_bytes

    assert room() == room(only_splits=("test",)) == 5 and room(only_datasets=("a",)) == 0
    write_files(folder, {"query/train/b.jsonl": []})
    assert room() == 5 and room(only_splits=("test",)) == 0, "those of the other split are left out"


def test_files_of_splits_that_are_not_read_are_named_with_the_setting_that_leaves_them_out(tmp_path):
    folder = write_files(tmp_path / "in", BEIR | {"qrels/train.tsv": "q1\td1\t1\n"})
    found = bring(tmp_path, folder, only_splits=("test",))
    assert [row["detail"] for row in found.outcome.tables["notices"]] == [
        "not read: the format reads no such files, or sources.only_splits leaves out their split"
    ]
    assert found.outcome.rows.rejected == 0 and [row["split"] for row in part(found, "queries")] == ["test"]
