"""Small tasks of mteb over the drawn shapes of the tests, without the network; mteb is imported where it runs, beside the environment."""

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mirepoix.models.item import Item
from tests.serving.fixtures import corpus

TEXTS, PICTURES, BOTH = ([item for item in corpus() if item.id.startswith(name)] for name in ("text", "picture", "both"))
INSTRUCTED = "Find the same shape."
TASKS: dict[str, tuple[str, list[Item], list[Item]]] = {
    "CaptionedShapes": ("t2it", TEXTS[:19], BOTH),
    "ShapesToTexts": ("i2t", PICTURES, TEXTS),
    "InstructedShapes": ("t2i", TEXTS[:4], PICTURES),
}
"""The category, the queries and the documents of each task, by its name."""


def judgements(task: str) -> dict[str, dict[str, int]]:
    """The document of a query's own number is relevant, and so, less, is the next one of its shape."""
    _, queries, documents = TASKS[task]
    return {
        query.id: {documents[number].id: 2, documents[(number + 3) % len(documents)].id: 1}
        for number, query in enumerate(queries)
        if number < len(documents)
    }


def _dataset(items: list[Item], more: dict[str, list[str]]) -> Any:
    from datasets import Dataset, Features, Image, Value

    columns: dict[str, Any] = {"id": [item.id for item in items]} | more
    features: dict[str, Any] = {name: Value("string") for name in columns}
    if items[0].text:
        columns["text"], features["text"] = [item.text for item in items], Value("string")
    if items[0].images:
        columns["image"], features["image"] = [{"bytes": item.images[0], "path": None} for item in items], Image()
    return Dataset.from_dict(columns, Features(features))


def make_task(name: str) -> Any:
    """The task, as a class of mteb's."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    category, queries, documents = TASKS[name]

    class Task(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=name,
            description="Shapes are found.",
            dataset={"path": f"none/{name}", "revision": "1"},
            type="Any2AnyRetrieval",
            category=category,
            modalities=["text", "image"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, **_: Any) -> None:
            more = {"instruction": [INSTRUCTED] * len(queries)} if name == "InstructedShapes" else {}
            split = {"queries": _dataset(queries, more), "corpus": _dataset(documents, {}), "relevant_docs": judgements(name)}
            self.dataset = {"default": {"test": {**split, "top_ranked": None}}}
            self.data_loaded = True

    return Task()


class Clip:
    """A clip as torchcodec, which is not installed, decodes it: frames of one colour each."""

    def __init__(self, colours: list[int]):
        self.colours = colours
        self.metadata = SimpleNamespace(num_frames=len(colours), end_stream_seconds=len(colours) / 2)

    def get_frames_at(self, places: list[int]) -> Any:
        import torch

        colours = torch.tensor([self.colours[place] for place in places], dtype=torch.uint8)
        return SimpleNamespace(data=colours[:, None, None, None].expand(-1, 3, 64, 64))


CLIPS = [list(range(0, 200, 5)), list(range(200, 0, -20))]
"""The colours of the frames of two clips, the one with 40 frames, the other with 10."""


class Clips(list[dict[str, Any]]):
    """Rows of clips, with the columns that a data set of them names."""

    features = ("video", "id")


def measured(target: str, folder: Path, names: list[str]) -> dict[str, Any]:
    """The scores of what is at a target by tasks, and what mteb is told of it."""
    import mteb

    import mirepoix

    model = mirepoix.mteb_encoder(target)
    assert isinstance(model, mteb.EncoderProtocol) and not isinstance(model, mteb.SearchProtocol)
    found = mteb.evaluate(
        model,
        [make_task(name) for name in names],
        cache=mteb.ResultCache(folder / "cache"),
        prediction_folder=folder,
        encode_kwargs={"batch_size": 8, "show_progress_bar": False},
        show_progress_bar=False,
    )
    scores = {result.task_name: result.scores["test"][0] for result in found.task_results}
    return {"scores": scores, "meta": json.loads(json.dumps(model.mteb_model_meta.to_dict(), default=str))}


def clip_vectors(target: str, **sampling: Any) -> list[list[float]]:
    """The vectors of the clips by the encoder of a release."""
    from torch.utils.data import DataLoader

    import mirepoix

    model = mirepoix.mteb_encoder(target, **sampling)
    clips = DataLoader(Clips({"id": str(number), "video": Clip(colours)} for number, colours in enumerate(CLIPS)), batch_size=2)
    task = SimpleNamespace(name="Clips", category="v2t", prompt=None)
    found = model.encode(clips, task_metadata=task, hf_split="test", hf_subset="default", prompt_type="document", show_progress_bar=False)
    return found.tolist()


def read_results(folder: Path) -> dict[str, Any]:
    """The results in a folder as mteb reads them: the score of each, and its splits."""
    from mteb.results import TaskResult

    results = [TaskResult.from_disk(file, load_historic_data=False) for file in sorted(folder.glob("*.json"))]
    return {result.task_name: [result.get_score(), result.eval_splits, result.hf_subsets] for result in results}


def main() -> None:
    """Measures a release by all tasks, and an encoder of several rows an item by one; writes found.json, and what was logged."""
    folder, release, late = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    handler = logging.FileHandler(folder / "log")
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    found = {
        "release": measured(release, folder / "release", list(TASKS)),
        "late": measured(late, folder / "late", ["CaptionedShapes"]),
        "clips": {"default": clip_vectors(release), "fps": clip_vectors(release, fps=1, max_frames=8)},
        "results": read_results(folder / "results"),
    }
    (folder / "found.json").write_text(json.dumps(found))
