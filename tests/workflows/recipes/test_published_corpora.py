"""The published recipes take the corpora that their papers train on: small ones in the shape of each, read and curated as a run does it."""

import base64
import json
import random
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.curation import curate
from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.components.evaluation.evaluate import headline_split
from mirepoix.components.ingestion import sources
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.pairs import pairs
from mirepoix.components.pairs.instructions import WORDINGS
from mirepoix.components.pairs.store import PairStore
from mirepoix.workflows.dag.comparison import Comparison
from mirepoix.workflows.recipes import published
from mirepoix.workflows.recipes.registry import RECIPES, recipe
from tests.components.fixtures import made
from tests.components.ingestion.formats.format_cases import write_files

PAPERS = {
    "unite": "mbeir",
    "jfe": "mbeir",
    "jfe_late": "mbeir",
    "uniir": "mbeir",
    "mimic": "webqa",
    "marvel": "webqa",
    "univldr": "webqa",
    "mire": "vid2r",
}
"""By recipe the format of its paper's corpus; those that were not published so are in that of a neighbour."""
WORDS = ["amber", "birch", "dune", "ember", "fjord", "heron", "iris", "kelp", "maple", "nectar", "onyx", "quartz", "raven", "tundra"]


def sentence(name: str) -> str:
    """A sentence of its own for every name."""
    return f"The {' '.join(random.Random(name).sample(WORDS, 9))}."


def noise_picture(name: str) -> bytes:
    """A picture of its own for every name."""
    buffer = BytesIO()
    noise = np.random.default_rng(list(name.encode())).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(noise).resize((48, 48), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def webqa(folder):
    """Questions answered by snippets or by captioned pictures: t->t and t->it."""
    asked = {"train": range(8), "dev": range(8, 12), "test": range(12, 16)}
    write_files(
        folder,
        {
            "all_docs.json": [{"snippet_id": f"d{n}_0", "fact": sentence(f"fact {n}")} for n in range(16)],
            "all_imgs.json": [{"image_id": 30000000 + n, "caption": sentence(f"caption {n}")} for n in range(16)],
            "imgs.tsv": "".join(f"{30000000 + n}\t{base64.b64encode(noise_picture(f'picture {n}')).decode()}\n" for n in range(16)),
        },
    )
    for split, numbers in asked.items():
        texts = [{"qid": f"t{n}", "Q": sentence(f"text question {n}"), "txt_posFacts": [{"snippet_id": f"d{n}_0"}]} for n in numbers]
        shown = [{"qid": f"i{n}", "Q": sentence(f"picture question {n}"), "img_posFacts": [{"image_id": 30000000 + n}]} for n in numbers]
        write_files(folder, {f"{split}.json": texts + shown})
    return folder


def mbeir(folder):
    """Queries of four tasks over pools of pictures, texts and both; no clip, and no t->t."""
    kinds = {"text": (1, 0), "image": (0, 1), "image,text": (1, 1)}
    tasks = {0: ("text", "image"), 3: ("image", "text"), 6: ("image,text", "text"), 8: ("image,text", "image,text")}
    pictures: dict[str, bytes] = {}

    def side(name, kind):
        text, image = kinds[kind]
        if image:
            pictures[f"mbeir_images/{name}.png"] = noise_picture(name)
        return sentence(name) if text else None, f"mbeir_images/{name}.png" if image else None

    for task, (asks, finds) in tasks.items():
        pool = []
        for split, numbers in {"train": range(1, 9), "val": range(9, 12), "test": range(12, 15)}.items():
            queries = []
            for n in numbers:
                (text, image), (answer, shown) = side(f"q{task}-{n}", asks), side(f"d{task}-{n}", finds)
                queries.append(
                    {
                        "qid": f"{task + 1}:{n}",
                        "query_txt": text,
                        "query_img_path": image,
                        "query_modality": asks,
                        "query_src_content": None,
                    }
                    | {"pos_cand_list": [f"{task + 1}:{n}"], "neg_cand_list": [], "task_id": task}
                )
                pool.append({"did": f"{task + 1}:{n}", "txt": answer, "img_path": shown, "modality": finds, "src_content": None})
            write_files(folder, {f"query/{split}/mbeir_made_task{task}_{split}.jsonl": queries})
        write_files(folder, {f"cand_pool/local/mbeir_made_task{task}_cand_pool.jsonl": pool})
    return write_files(folder, pictures)


def vid2r(folder):
    """Questions about pictures, with the passages that answer them: it->t alone."""
    for file, numbers in {"ViD2R.json": range(8), "made_test.json": range(8, 12)}.items():
        write_files(folder, {f"coco/{n}.png": noise_picture(f"photo {n}") for n in numbers})
        records = [{"question": sentence(f"question {n}"), "image": f"coco/{n}.png", "doc": sentence(f"passage {n}")} for n in numbers]
        write_files(folder, {file: json.dumps(records)})
    return folder


@pytest.fixture(scope="module")
def curated(ray_cluster, tmp_path_factory):
    """The curated corpora, by format."""
    kept = {}
    for form, shape in {"webqa": webqa, "mbeir": mbeir, "vid2r": vid2r}.items():
        home = tmp_path_factory.mktemp(form)
        ingested = made(home / "sources", sources.work, SourcesConfig(path=(str(shape(home / "corpus")),), format=form))
        kept[form] = made(home / "curate", curate.work, CurateConfig(), sources=ingested.folder)
        assert not kept[form].outcome.rows.rejected and not ingested.outcome.rows.rejected
    return kept


def test_every_published_recipe_has_its_papers_corpus():
    """A comparison has those of its arms, which are recipes."""
    alone = {name for name, made in RECIPES.items() if made.__module__ == published.__name__ and not isinstance(made(), Comparison)}
    assert set(PAPERS) == alone


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_has_pairs_for_each_of_its_trainings_and_a_split_to_be_measured_on(curated, tmp_path, name):
    config, corpus = recipe(name), curated[PAPERS[name]].folder
    found = made(tmp_path, pairs.work, config.made_pairs, curate=corpus)
    stores = {folder.parent.name for folder in found.folder.glob("*/pairs.arrow")}
    assert stores == ({"adapt", "instruct"} if config.adapt else {"instruct"})
    assert all(len(PairStore(found.folder / store)) >= 8 for store in stores)
    worded = bool(json.loads((found.folder / WORDINGS).read_text()))
    asked = read_part(found.folder, "queries").to_pylist()
    assert worded == (config.pairs.without_instruction < 1) == any(row["instruction"] for row in asked)
    assert headline_split({row["split"] for row in asked}, config.evaluate.split) == "test"
