"""The recipes by name. A recipe is a function that returns a config; its docstring gives the command, the cost and what to expect."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import getdoc
from pathlib import Path
from typing import Any

from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.backbones.tuning_config import Tuning
from mirepoix.models.errors import Refused
from mirepoix.models.losses.objective import Objective
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.workflows.config import ENDINGS, RECIPE, Document, describe, override, parse, read
from mirepoix.workflows.dag.comparison import Comparison
from mirepoix.workflows.dag.retrieval import Retrieval
from mirepoix.workflows.recipes import benchmarks, published
from mirepoix.workflows.recipes.finetune import finetune
from mirepoix.workflows.recipes.quickstarts import quickstart, quickstart_all, quickstart_fusion
from mirepoix.workflows.recipes.recipe_file import is_recipe_file, over, read_recipe_file
from mirepoix.workflows.recipes.search import search

Recipe = Retrieval | Comparison


def nlvr() -> Retrieval:
    """Human sentences over pictures of which they are true: UNITE on a tiny random Qwen2-VL, over Cornell NLVR as Parquet.

    mirepoix run nlvr sources.path=FOLDER        dev.parquet is trained on, test.parquet measured; two CPU cores, some minutes

    A sentence that compares boxes is far beyond a model of a million weights. The run shows real data in every stage: the six permutations
    of each picture are found, merged, and kept out of the wrong split.
    """
    training = TrainConfig(
        tuning=Tuning(towers=("language", "vision"), lora=None),
        global_batch_size=32,
        learning_rate=1e-3,
        warmup_steps=20,
        loss=Objective(temperature=0.05),
        save_steps=40,
        cpus_per_worker=2,
    )
    return Retrieval(
        sources=SourcesConfig(format="nlvr", splits=("validation=train",)),
        # Nine tenths of the candidates are permutations of others, and are merged.
        curate=CurateConfig(max_rejected=0.05),
        pairs=PairsConfig(adapt_tasks=()),
        adapt=replace(training, max_steps=60, loss=replace(training.loss, symmetric=True), negatives=0),
        # The pictures of which a sentence is false are its hard negatives; not every sentence has as many.
        instruct=replace(
            training, max_steps=40, learning_rate=3e-4, loss=replace(training.loss, modality_mask=True), negatives=1, fill_negatives=True
        ),
        evaluate=EvaluateConfig(split="test"),
        deploy=ServeConfig(port=0),
    )


RETRIEVERS = {
    "unite": "one multimodal language model, last token, modality-aware masked contrast",
    "jfe": "joint fusion and encoding in one multimodal tower",
    "mimic": "fusion in the decoder, mix-in and caption dropout against missing modalities",
    "mire": "late interaction of text with visual tokens that were pooled by it",
    "marvel": "pictures as tokens of a text encoder-decoder (baseline)",
    "univldr": "sum of CLIP's text and picture vectors (baseline)",
    "adopted": "a published model as its own folder describes it: CLIP, SigLIP, Chinese-CLIP, any dense sentence-transformers model",
}

RECIPES: dict[str, Callable[[], Recipe]] = {
    run.__name__: run
    for run in (
        quickstart,
        quickstart_all,
        quickstart_fusion,
        nlvr,
        search,
        finetune,
        published.unite,
        published.jfe,
        published.jfe_late,
        published.jfe_claim,
        published.mimic,
        published.mire,
        published.marvel,
        published.univldr,
        published.uniir,
        *benchmarks.BENCHMARKS,
    )
}


def recipe(name: str) -> Recipe:
    """The config of a recipe, by its name."""
    if name not in RECIPES:
        raise Refused(_other(name) or f"there is no recipe {name!r}; there are {', '.join(RECIPES)}: see `mirepoix list`")
    return RECIPES[name]()


def _other(name: str) -> str:
    """What was given in the place of a recipe, where it is a folder or a file, and what to give; empty where it is neither."""
    path = Path(name).expanduser()
    if path.is_dir():
        config = next((file for file in (path / "mirepoix.yaml", path / "config.yaml") if file.is_file()), None)
        cure = f"`mirepoix run {config}`" if config else f"`mirepoix init {name}` looks at it and writes a file that `mirepoix run` takes"
        return f"{name} is a folder, and neither a recipe nor a file of one; {cure}"
    if path.is_file():
        return f"{name} is a file, and one of a recipe has a name that ends in {' or '.join(ENDINGS)}; rename it"
    found = [f"{name}{ending}" for ending in ENDINGS if path.with_name(path.name + ending).is_file()]
    return f"there is no recipe {name!r}, and a file {found[0]}; give that: mirepoix run {found[0]}" if found else ""


def recipe_name(argument: str) -> str:
    """The name of the recipe that an argument names: itself, or what a file says on top."""
    if not is_recipe_file(argument):
        return argument
    return read_recipe_file(Path(argument)).recipe


def resolve(argument: str, overrides: Sequence[str] = (), config: Path | None = None) -> Recipe:
    """The config that an argument names, with overrides: that of a recipe, or of a file that names its recipe (recipe_file.py).

    `config` is a file for a recipe that is named apart from it; without a recipe of its own it holds every field.
    """
    if is_recipe_file(argument):
        if config is not None:
            raise Refused(f"{argument} is a config, and so is --config {config}; give one of them")
        return override(_of_file(read_recipe_file(Path(argument))), overrides)
    named = recipe(argument)
    if config is None:
        return override(named, overrides)
    document = parse(config)
    if document.recipe is None:
        return override(read(config, type(named)), overrides)
    if document.recipe != argument:
        raise Refused(f"{config} is of the recipe {document.recipe!r}, and {argument!r} is given beside it; run {config} by itself")
    return override(over(named, document), overrides)


def _of_file(document: Document) -> Recipe:
    if document.recipe not in RECIPES:
        place = document.origin.at("recipe")
        raise Refused(f"{place}: there is no recipe {document.recipe!r}; there are {', '.join(RECIPES)}: see `mirepoix list`")
    return over(recipe(document.recipe), document)


def described(argument: str, config: Any) -> str:
    """A config as a file that names its recipe, with the help of every field; one that is of no recipe names none."""
    name = recipe_name(argument)
    return f"{RECIPE}: {name}\n{describe(config)}" if name in RECIPES else describe(config)


def summary(name: str) -> str:
    """The first line of a recipe's docstring."""
    return (getdoc(RECIPES[name]) or "").splitlines()[0]
