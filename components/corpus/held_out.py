"""Held-out candidates: the answers of queries outside the split train, and candidates that curation found near-equal to them.

They are used neither to write passages nor as mined negatives.
"""

from pathlib import Path

import pyarrow.compute as pc

from mirepoix.components.corpus.parts import part_tables


def held_out(curate: Path) -> set[str]:
    """The ids of held-out candidates: judged answers of held-out queries, their kin, and those listed in held/ by curation."""
    held_out_queries: set[str] = set()
    for table in part_tables(curate, "queries", ["id", "split"]):
        held_out_queries.update(table.filter(pc.not_equal(table["split"], "train"))["id"].to_pylist())
    answers: set[str] = set()
    for table in part_tables(curate, "qrels", ["query_id", "item_id", "relevance"]):
        judged = table.filter(pc.greater(table["relevance"], 0))
        pairs = zip(judged["query_id"].to_pylist(), judged["item_id"].to_pylist(), strict=True)
        answers.update(item for query, item in pairs if query in held_out_queries)
    kin: set[str] = set()
    for table in part_tables(curate, "kin", ["item_id", "kin_id"]):
        for pair in zip(table["item_id"].to_pylist(), table["kin_id"].to_pylist(), strict=True):
            if not answers.isdisjoint(pair):
                kin.update(pair)
    return answers.union(kin, *(table["item_id"].to_pylist() for table in part_tables(curate, "held")))
