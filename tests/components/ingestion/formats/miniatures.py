"""Miniatures of the published benchmarks: a few queries and candidates each, in the files and columns that their pages describe."""

import base64
import json
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.components.ingestion.formats.format_cases import write_files

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
THINGS = ("anchor", "bridge", "candle", "drum", "engine", "fountain", "guitar", "harbour", "island", "jacket", "kettle", "ladder")


def drawing(number: int) -> bytes:
    """A picture of 8 by 8 coloured squares, another one for every number."""
    squares = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(squares).resize((32, 32), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def passage(number: int) -> str:
    """A passage about one of the things."""
    thing = THINGS[number % len(THINGS)]
    return f"Passage {number} tells that the {thing} of village {number} was made by hand and is kept near the old {thing} museum."


def write_parquet(file: Path, rows: list[dict[str, Any]], **types: pa.DataType) -> None:
    """A Parquet file of rows, with the types of the columns that need one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    plain = pa.Table.from_pylist([{name: value for name, value in row.items() if name not in types} for row in rows])
    for name, kind in types.items():
        plain = plain.append_column(name, pa.array([row[name] for row in rows], kind))
    pq.write_table(plain.select(list(rows[0])), file)


# M-BEIR, MMEB, WebQA

_MBEIR = (  # stem of the files, data set, task, modalities of queries and candidates, and in which rows of text they are worded
    ("mscoco_task0", 9, 0, "text", "image"),
    ("mscoco_task3", 9, 3, "image", "text"),
    ("webqa_task1", 2, 1, "text", "text"),
    ("webqa_task2", 2, 2, "text", "image,text"),
    ("nights_task4", 4, 4, "image", "image"),
    ("oven_task6", 5, 6, "image,text", "text"),
    ("fashioniq_task7", 7, 7, "image,text", "image"),
    ("oven_task8", 5, 8, "image,text", "image,text"),
)


def mbeir(folder: Path) -> Path:
    """M-BEIR: eight of its sixteen test sets with two queries and three candidates each, local pools, and the global one."""
    files: dict[str, Any] = {}
    union = []
    header = ["query_modality", "cand_modality", "dataset_name", "dataset_id", "prompt_1", "prompt_2"]
    wordings = ["\t".join(header)]

    def side(kind: str, number: int, words: str, before: str = "") -> dict[str, Any]:
        picture = f"mbeir_images/{number}.png" if "image" in kind else None
        if picture:
            files[picture] = drawing(number)
        text = f"{words} {THINGS[number % len(THINGS)]} number {number}." if "text" in kind else None
        return {f"{before}txt": text, f"{before}img_path": picture, f"{before}modality": kind, f"{before}src_content": None}

    for place, (stem, dataset, task, asked, wanted) in enumerate(_MBEIR):
        pool_stem = f"{stem}_test" if stem.startswith("mscoco") else stem
        pool = [{"did": f"{dataset}:{10 * place + each + 1}", **side(wanted, 100 + 10 * place + each, "This is")} for each in range(3)]
        queries = [
            {"qid": f"{dataset}:{10 * place + each + 1}", **side(asked, 200 + 10 * place + each, "Where is", "query_")}
            | {"pos_cand_list": [pool[each]["did"]], "neg_cand_list": [], "task_id": task}
            for each in range(2)
        ]
        files[f"cand_pool/local/mbeir_{pool_stem}_cand_pool.jsonl"] = pool
        files[f"query/test/mbeir_{stem}_test.jsonl"] = queries
        judged = [f"{query['qid']} 0 {query['pos_cand_list'][0]} 1 {task}\n" for query in queries]
        files[f"qrels/test/mbeir_{stem}_test_qrels.txt"] = "".join(judged)
        union += pool
        name = stem.partition("_")[0]
        wordings.append("\t".join([asked, wanted, name, str(dataset), f"Find what answers this in {name}.", f"Look in {name} for it."]))
    files["cand_pool/global/mbeir_union_test_cand_pool.jsonl"] = union
    files["instructions/query_instructions.tsv"] = "\n".join(wordings) + "\n"
    return write_files(folder, files)


def _mmeb_rows(rows: Path, pictures: Path) -> None:
    """Rows of four sets of MMEB, one of each group, below one folder, and their pictures below another."""
    sets: dict[str, list[dict[str, Any]]] = {
        "ImageNet-1K": [
            {
                "qry_inst": "<|image_1|> Represent the given image for classification",
                "qry_text": "",
                "qry_img_path": f"ImageNet-1K/{row}.png",
            }
            | {"tgt_inst": "", "tgt_text": [THINGS[row], *THINGS[4:7]], "tgt_img_path": [""] * 4}
            for row in range(2)
        ],
        "OK-VQA": [
            {"qry_inst": "<|image_1|> Answer the question.", "qry_text": f"What is {row}?", "qry_img_path": f"OK-VQA/{10 + row}.png"}
            | {"tgt_inst": "", "tgt_text": [THINGS[7 + row], *THINGS[9:12]], "tgt_img_path": [""] * 4}
            for row in range(2)
        ],
        "MSCOCO_t2i": [
            {"qry_inst": "Find me an everyday image that matches the caption:", "qry_text": f"The {THINGS[row]}.", "qry_img_path": ""}
            | {"tgt_inst": "<|image_1|> Represent the given image.", "tgt_text": ["", "", ""]}
            | {"tgt_img_path": [f"MSCOCO_t2i/{20 + (row + each) % 3}.png" for each in range(3)]}
            for row in range(2)
        ],
        "RefCOCO": [
            {
                "qry_inst": "<|image_1|> Select the portion of the image.",
                "qry_text": f"the {THINGS[row]}",
                "qry_img_path": f"RefCOCO/{30 + row}.png",
            }
            | {"tgt_inst": "<|image_1|> Represent the given cropped image.", "tgt_text": ["", "", ""]}
            | {"tgt_img_path": [f"RefCOCO/{32 + (row + each) % 3}.png" for each in range(3)]}
            for row in range(2)
        ],
    }
    for name, given in sets.items():
        write_parquet(rows / name / "test-00000-of-00001.parquet", given)
        paths = {path for row in given for path in (row["qry_img_path"], *row["tgt_img_path"]) if path}
        write_files(pictures, {path: drawing(int(Path(path).stem)) for path in paths})


def mmeb(folder: Path) -> Path:
    """MMEB: rows of four of its 36 sets, two queries each, with a list of candidates for each query."""
    _mmeb_rows(folder, folder)
    return folder


def webqa(folder: Path) -> Path:
    """WebQA: six passages, four captioned pictures, and four questions of the test split, with qrels."""
    pictures = [(30000000 + number, drawing(60 + number)) for number in range(4)]
    lines = [f"{id}\t{base64.b64encode(content).decode()}\n" for id, content in pictures]
    starts = np.cumsum([0, *map(len, lines)])[:-1]
    questions = [
        {"qid": f"q{number}", "Q": f"What is known of the {THINGS[number]}?", "txt_posFacts": [], "img_posFacts": []}
        | {"txt_negFacts": [], "img_negFacts": []}
        for number in range(4)
    ]
    questions[0]["txt_posFacts"], questions[1]["txt_posFacts"] = ["d0"], ["d1", "d2"]
    questions[2]["img_posFacts"], questions[3]["img_posFacts"] = [30000002], [30000003]
    return write_files(
        folder,
        {
            "all_docs.json": [{"snippet_id": f"d{number}", "fact": passage(number)} for number in range(6)],
            "all_imgs.json": [{"image_id": id, "caption": f"A picture of the {THINGS[id % 10]}"} for id, _ in pictures],
            "imgs.tsv": "".join(lines),
            "imgs.lineidx.new": "".join(f"{start}\n" for start in starts),
            "test.json": questions,
            "test_qrels.txt": "q0 0 d0 1\nq1 0 d1 1\nq1 0 d2 1\nq2 0 30000002 1\nq3 0 30000003 1\n",
        },
    )


# Questions about pictures, and passages


def _csv(rows: Iterable[tuple[str, str]]) -> str:
    return "kid,text\n" + "".join(f'{kid},"{text}"\n' for kid, text in rows)


def okvqa(folder: Path) -> Path:
    """OK-VQA with passages of a Google search: twelve of them, and four questions, of which two carry a caption."""
    questions = []
    for number in range(4):
        caption = f"a room with a {THINGS[number]}" if number % 2 else ""
        question = f"What is this thing number {number}? {caption}".strip()
        row = {"question_id": 1000 + number, "img_id": f"COCO_val2014_{number + 1:012d}", "question": question}
        row |= {"answers": {THINGS[number].title(): 3, f"no such {number}": 1}, "ctxs": [{"id": f"g{number}", "text": passage(number)}]}
        questions.append(row | ({"caption": caption} if caption else {}))
    pictures = {f"val2014/COCO_val2014_{number + 1:012d}.jpg": drawing(number) for number in range(4)}
    return write_files(
        folder,
        {
            "passages/okvqa_full_clean_corpus.csv": _csv((f"g{number}", passage(number)) for number in range(12)),
            "passages/retriever_test.json": json.dumps(questions),
            **pictures,
        },
    )


def okvqa_wikipedia(folder: Path) -> Path:
    """OK-VQA with passages of Wikipedia: eight of them, and three questions, with OK-VQA's own annotations."""
    pairs = [
        {"question_id": str(1000 + number), "image_id": number + 1, "question": f"What is this, number {number}?"}
        | {"pos_passage": {"passage": passage(number)}, "neg_passage": {"passage": passage(number + 1)}}
        for number in range(3)
    ]
    annotations = [
        {
            "question_id": 1000 + number,
            "image_id": number + 1,
            "answers": [{"answer": THINGS[number].title(), "answer_id": each} for each in range(3)],
        }
        for number in range(4)
    ]
    return write_files(
        folder,
        {
            "all_blocks.txt": [{"id": f"W_{number}@1", "title": THINGS[number], "text": passage(number)} for number in range(8)],
            "data/test2014_pairs_cap_combine_sum.txt": [*pairs, pairs[0]],
            "mscoco_val2014_annotations.json": json.dumps({"info": {}, "annotations": annotations}),
            **{f"coco/val2014/COCO_val2014_{number + 1:012d}.jpg": drawing(number) for number in range(3)},
        },
    )


def remuq(folder: Path) -> Path:
    """ReMuQ: ten passages and three questions with a picture."""
    lines = [f"{30000000 + number}\t{base64.b64encode(drawing(80 + number)).decode()}\n" for number in range(3)]
    starts = np.cumsum([0, *map(len, lines)])[:-1]
    questions = [
        {"question_id": f"r{number}", "img_id": str(30000000 + number), "question": f"Which thing is it, number {number}?"}
        | {"answers": {THINGS[number]: 1}, "ctxs": [{"id": str(number + 3), "text": passage(number + 3)}]}
        for number in range(3)
    ]
    return write_files(
        folder,
        {
            "open_corpus_10.csv": _csv((str(number), passage(number)) for number in range(10)),
            "test.json": json.dumps(questions),
            "imgs.tsv": "".join(lines),
            "imgs.lineidx": "".join(f"{start}\n" for start in starts),
        },
    )


def _m2kr(folder: Path, name: str, pictures: str, path: str, first: int) -> Path:
    """One of M2KR's data sets: eight passages and three questions; `path` is that of the pictures, with a place for their number."""
    rows = [
        {
            "question_id": f"{name}_{number}",
            "question": f"What is the {THINGS[number]} here?",
            "answers": [THINGS[number], f"nothing {number}"],
        }
        | {"gold_answer": THINGS[number], "img_path": path.format(number), "img_id": str(number)}
        | {"pos_item_ids": [f"WikiWeb_{number}"], "pos_item_contents": [passage(number)]}
        | {"instruction": "Using the provided image, obtain documents that address the subsequent question: "}
        for number in range(3)
    ]
    write_parquet(folder / f"{name}_data" / "test-00000-of-00001.parquet", rows)
    write_parquet(folder / f"{name}_data" / "train-00000-of-00001.parquet", rows[:1])
    passages = [{"language": "en", "passage_id": f"WikiWeb_{number}", "passage_content": passage(number)} for number in range(8)]
    write_parquet(folder / f"{name}_passages" / "test_passages-00000-of-00001.parquet", passages)
    return write_files(folder, {f"{pictures}/{Path(path).name}".format(number): drawing(first + number) for number in range(3)})


def evqa(folder: Path) -> Path:
    """E-VQA of M2KR."""
    return _m2kr(folder, "EVQA", "EVQA/inat/val", "inat/val/{}.jpg", 300)


def infoseek(folder: Path) -> Path:
    """InfoSeek of M2KR, in any folder, also in that of `evqa`."""
    return _m2kr(folder, "Infoseek", "Infoseek", "somewhere/oven_0{}.jpg", 310)


# Pages and clips


def beir_pages(folder: Path, first: int, split: str = "test", mark: str = "-", grades: bool = False) -> Path:
    """Six pages and three questions in BEIR's parts; with grades, the first question has pages of two grades, and another language."""
    pages = [{f"corpus{mark}id": number, "image": {"bytes": drawing(first + number), "path": None}, "doc_id": "d"} for number in range(6)]
    questions = [
        {f"query{mark}id": number, "query": f"On which page is the {THINGS[number]}?", "language": "english", "answer": "a"}
        for number in range(3)
    ]
    judged = [{f"query{mark}id": number, f"corpus{mark}id": number, "score": 2 if grades else 1} for number in range(3)]
    if grades:
        judged += [{f"query{mark}id": 0, f"corpus{mark}id": 4, "score": 1}, {f"query{mark}id": 0, f"corpus{mark}id": 0, "score": 1}]
        questions += [{f"query{mark}id": 3, "query": f"Sur quelle page est {THINGS[0]} ?", "language": "french", "answer": "a"}]
        judged += [{f"query{mark}id": 3, f"corpus{mark}id": 0, "score": 2}]
    name = f"{split}-00000-of-00001.parquet"
    write_parquet(folder / "corpus" / name, pages, image=PICTURE)
    write_parquet(folder / "queries" / name, questions)
    write_parquet(folder / "qrels" / name, judged)
    return folder


def vidore(folder: Path) -> Path:
    """ViDoRe: a data set of each version, the first in the form of questions and pages."""
    asked = [f"Which page has the {THINGS[0]}?", None, f"Which page has the {THINGS[2]}?", f"Which page has the {THINGS[2]}?"]
    rows = [
        {"questionId": str(number), "query": query, "image": {"bytes": drawing(400 + number), "path": f"{number}.png"}}
        | {"image_filename": f"{number}.png", "page": "1", "answer": None, "source": "docvqa"}
        for number, query in enumerate(asked)
    ]
    rows.append(rows[0] | {"query": f"Where is the {THINGS[5]}?"})  # another question about the first page
    file = folder / "docvqa_test_subsampled/data/test-00000-of-00001.parquet"
    write_parquet(file, rows, image=PICTURE, query=pa.string(), answer=pa.string())
    beir_pages(folder / "esg_reports_v2", 420, grades=True)
    beir_pages(folder / "vidore_v3_hr", 440, mark="_", grades=True)
    return folder


def _frames(folder: str, first: int, count: int = 2) -> dict[str, Any]:
    return {f"video-tasks/frames/{folder}/frame_{number + 1:04d}.jpg": drawing(first + number) for number in range(count)}


def mmeb_v2(folder: Path) -> Path:
    """MMEB-V2: four sets of pictures, twelve sets of clips of every kind, two sets of pages."""
    _mmeb_rows(folder / "image-query", folder / "image-tasks")
    lists = "UCF101_LABELS = ['Archery', 'Diving', 'Rowing']\nOTHER = 3\nVIDEOCLS_LABEL_MAPPING = {\n    'UCF101': UCF101_LABELS,\n}\n"
    rows: dict[str, list[dict[str, Any]]] = {
        "ucf101": [{"video_id": "v1", "pos_text": "Diving"}, {"video_id": "v2", "pos_text": "Juggling"}],
        "ssv2": [{"video_id": 7, "pos_text": "Closing it", "neg_text": ["Opening it", "Closing it", "Moving it"]}],
        "video-mme": [{"videoID": "m1", "question": "Who?", "options": ["A. One.", "B. Two."], "answer": "B", "question_id": "001-1"}],
        "nextqa": [{"video": 4, "question": "why?", "answer": 1, "qid": 0, "type": "CW"} | {f"a{n}": f"reason {n}" for n in range(5)}],
        "egoschema": [{"video_idx": "e1", "question": "What for? ", "option": ["A. Tea", "B. Fun"], "answer": "0", "question_idx": "1"}],
        "activitynetqa": [{"video_name": "a1", "question": "is it day", "answer": "no", "question_id": "q1"}],
        "msr-vtt": [{"video_id": f"video{n}", "video": f"video{n}.mp4", "caption": f"someone plays the {THINGS[n]}"} for n in range(3)],
        "didemo": [{"video": "clips/d1.mp4", "caption": "first a dog appears"}],
        "vatex": [{"videoID": "x_000001_000011", "enCap": ["A child sings.", "Someone sings."]}],
        "qvhighlight": [{"query": "the cook adds salt", "video_path": "raw/h1.mp4"}],
        "momentseeker_1k6": [
            {
                "query": "when it falls",
                "input_frames": given,
                "positive_frames": [{"output_path": "ego/p1.mp4"}, {"output_path": "ego/p2.mp4"}],
            }
            | {"negative_frames": [{"output_path": "ego/n1.mp4"}]}
            for given in ("", "7.jpg", "ego/q1.mp4")
        ],
    }
    beir_pages(folder / "visdoc-tasks/data/arxivqa_test_subsampled_beir", 560)
    beir_pages(folder / "visdoc-tasks/data/VisRAG-Ret-Test-ChartQA", 580, split="train")
    return write_files(
        folder,
        {
            **{f"video-tasks/data/{name}.jsonl": given for name, given in rows.items()},
            "video-tasks/data/mvbench/moving_count.json": json.dumps(
                [{"video": "b1.mp4", "question": "How many move?", "candidates": ["1", "2"], "answer": "2"}]
            ),
            "video_classification_utils.py": lists,
            **_frames("video_cls/UCF101/v1", 600, 17),
            **_frames("video_cls/UCF101/v2", 620),
            **_frames("video_cls/SSv2/7", 630),
            **_frames("video_qa/Video-MME/m1", 640),
            **_frames("video_qa/NExTQA/4", 650),
            **_frames("video_qa/egoschema/e1", 660),
            **_frames("video_qa/ActivityNetQA/v_a1", 670),
            **_frames("video_qa/MVBench/moving_count/b1.mp4", 680),
            **{name: given for n in range(3) for name, given in _frames(f"video_ret/MSR-VTT/video{n}", 690 + 2 * n).items()},
            **_frames("video_ret/data/ziyan/video_retrieval/DiDeMo/frames/d1", 700),
            **_frames("video_ret/VATEX/x_000001_000011", 710),
            **_frames("video_mret/QVHighlight/h1/query", 720),
            **_frames("video_mret/QVHighlight/h1/positive", 730),
            **_frames("video_mret/QVHighlight/h1/negative_0", 740),
            **{
                name: given
                for n, clip in enumerate(("p1", "p2", "n1", "q1"))
                for name, given in _frames(f"video_mret/MomentSeeker/video_frames/ego_{clip}", 750 + 2 * n).items()
            },
            "video-tasks/frames/video_mret/MomentSeeker/query_7.jpg": drawing(760),
        },
    )
