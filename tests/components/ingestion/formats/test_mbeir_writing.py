"""M-BEIR as it is written: to the letter, with pools, and refused or counted where it has no place for something."""

import pytest

from mirepoix.components.ingestion.formats import mbeir
from mirepoix.components.ingestion.formats.mbeir_writing import write
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Member, Prompt, Query
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import corpus_of, meaning, picture, rows_of, write_files
from tests.components.ingestion.formats.mbeir_cases import ASKED, POOLS, WHOLE, members
from tests.components.ingestion.formats.samples import BLUE, RED

ITEMS = [Candidate(Item("9:1", "d")), Query(Item("9:2", "q"), "train", "t->t"), Judgement("9:2", "9:1")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([Candidate(Item("doc", "d")), ITEMS[1], Judgement("9:2", "doc")], "dataset:number, such as 9:42, and not 'doc'"),
        ([ITEMS[0], Query(Item("9:2", "q"), "dev", "t->t"), ITEMS[2]], "no split 'dev'"),
        ([ITEMS[0], Query(Item("9:2", "q"), "train", "t->v"), ITEMS[2]], "no task 't->v'"),
        ([Candidate(Item("9:1", "d", (RED, BLUE))), *ITEMS[1:]], "one picture an item"),
        ([ITEMS[0], Query(Item("9:2", "q", instruction="Find."), "train", "t->t"), ITEMS[2]], "no place for an instruction"),
    ],
)
def test_what_mbeir_cannot_hold_is_refused(tmp_path, rows, message):
    with pytest.raises(Refused, match=message):
        write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))


def test_what_is_written_is_mbeir_to_the_letter(tmp_path):
    rows = [
        Candidate(Item("9:1", images=(picture(3),))),
        Query(Item("9:2", "q"), "validation", "t->i"),
        Judgement("9:2", "9:1"),
        Prompt("t->i", "Find it.", "9:"),
        Prompt("t->i", "Find it in another source.", "other"),
    ]
    out = tmp_path / "out"
    assert write(out, corpus_of(tmp_path / "corpus", rows)) == {"prompts": 1}
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    stem = "mbeir_mscoco_task0"
    assert {name for name in found if "images" not in name} == {
        f"query/val/{stem}_val.jsonl",
        f"qrels/val/{stem}_val_qrels.txt",
        f"cand_pool/local/{stem}_cand_pool.jsonl",
        "instructions/query_instructions.tsv",
    }
    assert (out / f"qrels/val/{stem}_val_qrels.txt").read_text() == "9:2 0 9:1 1 0\n"
    assert (out / "instructions/query_instructions.tsv").read_text().splitlines()[1] == "text\timage\tmscoco\t9\tFind it."
    assert (out / f"query/val/{stem}_val.jsonl").read_text() == (
        '{"qid": "9:2", "query_txt": "q", "query_img_path": null, "query_modality": "text", "query_src_content": null, '
        '"pos_cand_list": ["9:1"], "neg_cand_list": [], "task_id": 0}\n'
    )


def test_pools_queries_and_data_sets_are_the_same_after_they_were_written(tmp_path):
    rows = rows_of(mbeir, write_files(tmp_path / "in", POOLS | WHOLE | ASKED))
    assert write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows)) == {}
    again = rows_of(mbeir, tmp_path / "out")
    assert meaning(again) == meaning(rows)
    assert [(row.item.id, row.dataset, row.pool) for row in again if isinstance(row, Query)] == [
        (row.item.id, row.dataset, row.pool) for row in rows if isinstance(row, Query)
    ]
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert files == {*POOLS, *WHOLE, *ASKED}


def benchmark(**about):
    """A candidate of two pools, one of none, and a query with what is given."""
    asked = Query(Item("12:2", "q"), "test", "t->t", **about)
    return [
        Candidate(Item("12:1", "d")),
        Candidate(Item("12:3", "e")),
        asked,
        Judgement("12:2", "12:1"),
        Member("mine", "12:1"),
        Member("b", "12:1"),
    ]


@pytest.mark.parametrize(
    ("about", "lost"),
    [
        ({"pool": "mine", "dataset": "mine"}, {}),
        ({"pool": "b"}, {}),
        ({"pool": "gone"}, {"pools of queries": 1}),
        ({"pool": "mine", "dataset": "other"}, {"names of data sets": 1}),
        ({"pool": "mine", "answers": ("yes",)}, {"answers as texts": 1}),
    ],
)
def test_what_a_query_of_a_benchmark_cannot_be_written_with_is_counted(tmp_path, about, lost):
    left = write(tmp_path / "out", corpus_of(tmp_path / "corpus", benchmark(**about)))
    assert left == lost | {"candidates that are in no pool": 1}
    rows = rows_of(mbeir, tmp_path / "out")
    assert members(rows) == {"b": ["12:1"], "dataset12_in_no_pool": ["12:3"], "mine": ["12:1"]}
    (asked,) = [row for row in rows if isinstance(row, Query)]
    assert asked.pool == ("" if "pools of queries" in lost else about["pool"])


def test_a_pool_that_cannot_be_the_name_of_a_file_is_refused(tmp_path):
    rows = [*benchmark(), Member("a/b", "12:1")]
    with pytest.raises(Refused, match="'a/b' cannot be one; write another format"):
        write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
