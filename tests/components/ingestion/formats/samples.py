"""A source of each format of examples, and of BEIR, M-BEIR and Tevatron, written by hand as the format is described."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.components.ingestion.formats.format_cases import picture, write_files

RED, BLUE, GREY, JPEG = picture(250), picture(1), picture(90), picture(40, "JPEG")


def beir(folder: Path) -> Path:
    return write_files(
        folder,
        {
            "corpus.jsonl": [
                {"_id": "d1", "title": "Soup", "text": "How to cook it.", "metadata": {"url": "x"}},
                {"_id": "d2", "title": "", "text": "  Kept as it is. "},
                {"_id": "d3", "title": "Only a title", "text": ""},
            ],
            "queries.jsonl": [
                {"_id": "q1", "text": "cook soup", "metadata": {}},
                {"_id": "q2", "text": "a title"},
                {"_id": "q3", "text": "nobody judged this"},
            ],
            "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n",
            "qrels/dev.tsv": "query-id\tcorpus-id\tscore\nq2\td3\t1\n",
        },
    )


def mbeir(folder: Path) -> Path:
    none = {"query_src_content": None}
    return write_files(
        folder,
        {
            "query/train/mbeir_mscoco_task0_train.jsonl": [
                {"qid": "9:1", "query_txt": "a red car", "query_img_path": None, "query_modality": "text", **none}
                | {"pos_cand_list": ["9:11"], "neg_cand_list": ["9:12"], "task_id": 0},
            ],
            "query/val/mbeir_mscoco_task3_val.jsonl": [
                {"qid": "9:2", "query_txt": None, "query_img_path": "mbeir_images/grey.png", "query_modality": "image", **none}
                | {"pos_cand_list": ["9:12"], "neg_cand_list": [], "task_id": 3},
            ],
            "query/test/mbeir_oven_task8_test.jsonl": [
                {
                    "qid": "5:1",
                    "query_txt": "what is it?",
                    "query_img_path": "mbeir_images/grey.png",
                    "query_modality": "image,text",
                    **none,
                }
                | {"pos_cand_list": ["6:7", "5:3"], "neg_cand_list": [], "task_id": 8},
            ],
            "cand_pool/local/mbeir_mscoco_task0_cand_pool.jsonl": [
                {"did": "9:11", "txt": None, "img_path": "mbeir_images/red.png", "modality": "image", "src_content": None},
                {"did": "9:12", "txt": "A dog.", "img_path": None, "modality": "text", "src_content": "left aside"},
            ],
            "cand_pool/local/mbeir_oven_task8_cand_pool.jsonl": [
                {"did": "5:3", "txt": "Oven", "img_path": "mbeir_images/blue.png", "modality": "image,text", "src_content": None},
                {"did": "6:7", "txt": "Seek", "img_path": "mbeir_images/blue.png", "modality": "image,text", "src_content": None},
            ],
            "qrels/val/mbeir_mscoco_task3_val_qrels.txt": "9:2 0 9:12 1 3\n",
            "instructions/query_instructions.tsv": "query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2\n"
            "text\timage\tMSCOCO\t9\tFind a picture.\tShow me.\n",
            "mbeir_images/red.png": RED,
            "mbeir_images/blue.png": BLUE,
            "mbeir_images/grey.png": GREY,
        },
    )


def mmeb(folder: Path) -> Path:
    train = [
        {"qry": "<|image_1|>\nWhat is it?\n", "qry_image_path": "i/red.png", "pos_text": "a stop sign", "pos_image_path": ""}
        | {"neg_text": "a rose", "neg_image_path": ""},
        {"qry": "the sea", "qry_image_path": "", "pos_text": "<|image_1|>", "pos_image_path": "i/blue.png"}
        | {"neg_text": "", "neg_image_path": ""},
    ]
    (folder / "VOC2007").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(train), folder / "VOC2007/original-00000-of-00001.parquet")
    rows = [
        {"qry_inst": "<|image_1|> Name the thing.", "qry_text": "", "qry_img_path": "i/red.png", "tgt_inst": None}
        | {"tgt_text": ["stop sign", "rose", "stop sign"], "tgt_img_path": ["", "", ""]},
        {"qry_inst": "Find it.", "qry_text": "a sea", "qry_img_path": "", "tgt_inst": "<|image_1|> Represent the given image."}
        | {"tgt_text": ["", ""], "tgt_img_path": ["i/blue.png", "i/red.png"]},
        {"qry_inst": "Find it.", "qry_text": "a sign", "qry_img_path": "", "tgt_inst": "<|image_1|> Represent the given image."}
        | {"tgt_text": ["", ""], "tgt_img_path": ["i/red.png", "i/blue.png"]},
    ]
    (folder / "N24News").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "N24News/test-00000-of-00001.parquet")
    return write_files(folder, {"i/red.png": RED, "i/blue.png": BLUE})


def unite(folder: Path) -> Path:
    return write_files(
        folder,
        {
            "val.json": """[
  {"query": {"text": "Find the same: <|IMAGE|>\\nsharper", "image": "red.png"},
   "candidate": {"text": "<|IMAGE|><|IMAGE|>\\ntwo views", "image": ["blue.png", "grey.jpg"]},
   "negative": {"image": {"type": "image", "image": "red.png"}},
   "target_modal": "text, image"},
  {"query": {"text": "a clip of the sea"}, "candidate": {"text": "<|VIDEO|>", "video": ["blue.png", "red.png"]}, "target_modal": "video"}
]
""",
            "red.png": RED,
            "blue.png": BLUE,
            "grey.jpg": JPEG,
        },
    )


def flagembedding(folder: Path) -> Path:
    return write_files(
        folder,
        {
            "toy_no_in_batch_neg.jsonl": [
                {"query": "q one", "pos": ["p one", "p two"], "neg": ["n one"], "pos_scores": [0.75, 0.5], "neg_scores": [-1]}
                | {"prompt": "Find it: ", "type": "normal"},
                {"query": "q two", "pos": ["p two"], "neg": []},
            ],
            "candidate_pool/pool.jsonl": [{"text": "in the pool alone"}],
        },
    )


def msswift(folder: Path) -> Path:
    return write_files(
        folder,
        {
            "test.jsonl": [
                {
                    "messages": [{"role": "system", "content": "Find it."}, {"role": "user", "content": "<image>one"}],
                    "images": ["red.png"],
                    "positive_messages": [[{"role": "user", "content": "<image>two"}]],
                    "positive_images": [["blue.png"]],
                    "negative_messages": [[{"role": "user", "content": "<image><image>three"}], [{"role": "user", "content": "four"}]],
                    "negative_images": [["red.png", "grey.jpg"], []],
                    "label": 1.0,
                },
                {
                    "messages": [{"role": "user", "content": "<video>\n"}],
                    "videos": [["red.png", "blue.png"]],
                    "positive_messages": [[{"role": "system", "content": "It is said:"}, {"role": "user", "content": "five"}]],
                },
            ],
            "red.png": RED,
            "blue.png": BLUE,
            "grey.jpg": JPEG,
        },
    )


def tevatron(folder: Path) -> Path:
    return write_files(
        folder,
        {
            "corpus.jsonl": [
                {"docid": "d1", "text": "a text", "image": None, "video": None, "audio": None},
                {"docid": 2, "document_text": "and a picture", "document_image": "blue.png"},
            ],
            "train.jsonl": [
                {"query_id": "q1", "query_text": "one", "query_image": "red.png", "query_video": None, "query_audio": None}
                | {"positive_document_ids": ["d1"], "negative_document_ids": [2]},
            ],
            "red.png": RED,
            "blue.png": BLUE,
        },
    )


def tevatron_passages(folder: Path) -> Path:
    first, second, other = (
        {"docid": "p1", "title": "Soup", "text": "is hot"},
        {"docid": "p2", "title": "", "text": "is cold"},
        {"docid": "p3", "title": "", "text": "is blue"},
    )
    return write_files(
        folder,
        {
            "dev.jsonl": [
                {"query_id": 1, "query": "hot?", "answers": ["soup"], "positive_passages": [first], "negative_passages": [second, other]},
                {"query_id": 2, "query": "cold?", "positive_passages": [second], "negative_passages": [first]},
            ]
        },
    )


def sentence_transformers(folder: Path) -> Path:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("query", pa.string()), ("image", image), ("negative_0", image), ("negative_1", pa.string())])
    rows = [{"query": "the red one", "image": {"bytes": RED}, "negative_0": {"path": "blue.png"}, "negative_1": "a rose"}]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "train-00000.parquet")
    return write_files(folder, {"blue.png": BLUE})


SAMPLES: dict[str, list[Callable[[Path], Path]]] = {
    "beir": [beir],
    "mbeir": [mbeir],
    "mmeb": [mmeb],
    "unite": [unite],
    "flagembedding": [flagembedding],
    "ms-swift": [msswift],
    "tevatron": [tevatron, tevatron_passages],
    "sentence-transformers": [sentence_transformers],
}
