"""The recipes of public benchmarks: a published model as it is, measured on their published files as their boards measure it.

With sources.only_datasets=NAME,PATTERN some data sets of a board are measured alone; those that are not there are named at the start.
Which files they take, from where and under which licence is in docs/benchmarks.md. What is not as in each paper's code is said there too.
"""

from dataclasses import replace

from mirepoix.components.corpus.captions_config import CaptionsConfig
from mirepoix.components.curation.curate_config import CurateConfig, NearRules
from mirepoix.components.curation.text_rules import TextRules
from mirepoix.components.evaluation.evaluate_config import EvaluateConfig, Mean
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.serving.search.index_config import IndexConfig
from mirepoix.workflows.dag.benchmark import Benchmark
from mirepoix.workflows.recipes.search import MODEL

EVERY_TEXT = TextRules(
    max_characters=10_000_000, min_letters=0, max_urls=1, max_replaced=1, max_run=10_000_000, max_repeated_lines=1,
    max_repeated_phrases=1, mojibake=True, file_names=True,
)  # fmt: skip
AS_PUBLISHED = CurateConfig(
    max_picture_bytes=100_000_000,
    max_picture_pixels=89_000_000,  # Pillow warns of more
    max_pictures=10_000,
    text=EVERY_TEXT,
    near=NearRules(texts=None, pictures=None),
    near_duplicates="keep",
    exact_duplicates="keep",
    leakage="off",
    unanswered="keep",
    max_rejected=0.01,
)
"""Curation that leaves a benchmark as it is: a candidate that is merged or rejected would change ranks. What cannot be decoded is rejected,
and more than a hundredth of that refuses the run; a query without an answer stays, and counts as zero."""
OWN_WORDINGS = PairsConfig(adapt_tasks=None, instruct_tasks=None, wordings="source", without_instruction=0)
"""Queries have the instructions that the benchmark brings, and no others."""


def _measured(board: str, form: str, mean: Mean, **sources: object) -> Benchmark:
    return Benchmark(
        sources=replace(SourcesConfig(format=form, only_splits=("test",)), **sources),  # type: ignore[arg-type]
        curate=AS_PUBLISHED,
        pairs=OWN_WORDINGS,
        backbone=MODEL,
        adapt=None,
        instruct=None,
        index=IndexConfig(kind="flat"),
        evaluate=EvaluateConfig(board=board, measure="main", split="test", mean=mean),
    )


def mbeir() -> Benchmark:
    """M-BEIR: 16 test sets of eight tasks, each in its own candidates and in the union of all.

    mirepoix run mbeir sources.path=DIR backbone.name=MODEL     DIR as the hub has it; all 5.6 million candidates want a GPU

    Scores are UniIR's: hits at 5, at 10 for the fashion sets, and the mean over 16 sets. Texts are edited as UniIR edits them, and a
    wording of each instruction is drawn by seed and query. With one task's files alone, or sources.only_datasets=mscoco, that is measured,
    in its own candidates; the union is measured where its file is there: sources.only_datasets=mscoco,union reads it too.
    """
    return _measured("mbeir", "mbeir", "datasets", uniir_texts=True)


def mmeb() -> Benchmark:
    """MMEB: 36 sets of pictures in four groups, each query in its own list of candidates.

    mirepoix run mmeb sources.path=DIR backbone.name=MODEL     rows and pictures of the test sets; sources.images=DIR for pictures elsewhere

    Scores are VLM2Vec's hit at 1, where a candidate with the score of the answer counts against the query.
    """
    return _measured("mmeb", "mmeb", "datasets")


def mmeb_v2() -> Benchmark:
    """MMEB-V2: the 36 sets of pictures, 18 of clips and 24 of pages of documents.

    mirepoix run mmeb_v2 sources.path=DIR backbone.name=MODEL     sets that are not in the folder are named, and not measured
    mirepoix run mmeb_v2 sources.path=DIR backbone.name=MODEL sources.only_datasets=Image,VisDoc     a model that reads no clips

    Scores are VLM2Vec's: hit at 1 for pictures and clips, nDCG at 5 with linear gain for pages.
    """
    return _measured("mmeb_v2", "mmeb-v2", "datasets")


def webqa() -> Benchmark:
    """WebQA as MARVEL and UniVL-DR have it: questions that snippets or captioned pictures answer, in all of them together.

    mirepoix run webqa sources.path=DIR backbone.name=MODEL     all_docs.json, all_imgs.json, imgs.tsv, test.json, test_qrels.txt

    Scores are MRR and NDCG at 10 and 20, and recall at 20 and 100, over all questions; the pool `target` has snippets or pictures alone.
    """
    return _measured("webqa", "webqa", "queries")


def webqa_plus() -> Benchmark:
    """WebQA+ as we construct it: WebQA where 0, 25, 50, 75 and 100 % of the pictures have lost their captions, by seed.

    mirepoix run webqa_plus sources.path=DIR backbone.name=MODEL     the files of webqa

    MiMIC's paper has the data set without its files or its rates; this one is for comparing models with each other alone.
    """
    return replace(_measured("webqa_plus", "webqa", "datasets"), captions=CaptionsConfig(of="documents"))


def okvqa() -> Benchmark:
    """OK-VQA: questions about pictures, answered by passages of a Google search, or of Wikipedia, as MIRe measures it.

    mirepoix run okvqa sources.path=DIR backbone.name=MODEL     passages, questions and pictures of COCO

    A passage is relevant where it has an answer as whole words, so scores do not compare with those over gold passages.
    """
    return _measured("okvqa", "okvqa", "queries")


def remuq() -> Benchmark:
    """ReMuQ: questions about pictures, each with one right passage of 195,837, as MIRe measures it.

    mirepoix run remuq sources.path=DIR backbone.name=MODEL     passages, test questions and pictures
    """
    return _measured("remuq", "remuq", "queries")


def evqa() -> Benchmark:
    """E-VQA of M2KR: questions about species and landmarks, answered by passages of Wikipedia, as PreFLMR and MIRe measure it.

    mirepoix run evqa sources.path=DIR backbone.name=MODEL     EVQA_data, EVQA_passages and the pictures

    A passage is relevant where it has an answer, in any case of letters.
    """
    return _measured("evqa", "m2kr", "queries", only_datasets=("E-VQA",))


def evqa_plus() -> Benchmark:
    """EVQA+ as we construct it: E-VQA where 0, 25, 50, 75 and 100 % of the pictures are asked without their text, by seed.

    mirepoix run evqa_plus sources.path=DIR backbone.name=MODEL     the files of evqa

    MiMIC's paper has the data set without its files or its rates; this one is for comparing models with each other alone.
    """
    return replace(_measured("evqa_plus", "m2kr", "datasets", only_datasets=("E-VQA",)), captions=CaptionsConfig(of="queries"))


def infoseek() -> Benchmark:
    """InfoSeek of M2KR: questions about entities in pictures, answered by passages of Wikipedia, as PreFLMR measures it.

    mirepoix run infoseek sources.path=DIR backbone.name=MODEL     Infoseek_data, Infoseek_passages and the pictures

    A passage is relevant where it has an answer, in any case of letters. M-BEIR has an InfoSeek of its own, with gold passages.
    """
    return _measured("infoseek", "m2kr", "queries", only_datasets=("InfoSeek",))


def vidore() -> Benchmark:
    """ViDoRe, versions 1 to 3: questions whose answers are on pages of documents, as mteb measures it.

    mirepoix run vidore sources.path=DIR backbone.name=MODEL     a folder for each data set, as the hub has it

    Scores are nDCG at 5, and at 10 for version 3, with linear gain; grades count.
    """
    return _measured("vidore", "vidore", "datasets")


BENCHMARKS = (mbeir, mmeb, mmeb_v2, webqa, webqa_plus, okvqa, remuq, evqa, evqa_plus, infoseek, vidore)
