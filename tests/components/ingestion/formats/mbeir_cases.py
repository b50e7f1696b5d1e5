"""M-BEIR's files by hand: rows of pools and queries, and a benchmark with pools of every kind."""

from mirepoix.components.ingestion.formats.rows import Member


def text(did, txt="t"):
    return {"did": did, "txt": txt, "img_path": None, "modality": "text", "src_content": None}


def query(qid, positives, negatives=(), task=1, **more):
    row = {"qid": qid, "query_txt": "q", "query_img_path": None, "query_modality": "text", "query_src_content": None, "task_id": task}
    return row | {"pos_cand_list": list(positives), "neg_cand_list": list(negatives)} | more


POOLS = {
    f"cand_pool/local/mbeir_mscoco_task1{end}_cand_pool.jsonl": [text(f"9:{number}"), text("9:3", "in both")]
    for end, number in (("", 1), ("_test", 2))
}
WHOLE = {
    "cand_pool/global/mbeir_union_train_cand_pool.jsonl": [text("9:4")],
    "cand_pool/global/mbeir_union_val_cand_pool.jsonl": [text("9:1"), text("9:3", "in both")],
    "cand_pool/global/mbeir_union_test_cand_pool.jsonl": [text("9:2"), text("9:3", "in both"), text("9:5")],
}
ASKED = {
    "query/train/mbeir_mscoco_task1_train.jsonl": [query("9:1", ["9:4"])],
    "query/val/mbeir_mscoco_task1_val.jsonl": [query("9:2", ["9:1"])],
    "query/test/mbeir_mscoco_task1_test.jsonl": [query("9:3", ["9:2"])],
    "qrels/val/mbeir_mscoco_task1_val_qrels.txt": "9:2 0 9:1 1 1\n",
    "qrels/test/mbeir_mscoco_task1_test_qrels.txt": "9:3 0 9:2 1 1\n",
}


def members(rows):
    found = {}
    for row in rows:
        if isinstance(row, Member):
            found.setdefault(row.pool, []).append(row.item_id)
    return found
