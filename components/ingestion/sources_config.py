"""The config of `sources`: the paths of corpora and their formats."""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mirepoix.components.synthetic.world_config import WorldConfig
from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown
from mirepoix.serving.store import refuse_credentials


class FormatInfo(NamedTuple):
    """A corpus format, as `list` prints it."""

    what: str
    written: bool = True  # by `convert`, not only read


FORMATS = {
    "canonical": FormatInfo("our own Parquet: corpus/, queries/ and qrels/, and triples/ and prompts/ where there are any"),
    "beir": FormatInfo("BEIR: corpus.jsonl, queries.jsonl and qrels/<split>.tsv"),
    "mbeir": FormatInfo("M-BEIR: query/, cand_pool/, qrels/ and instructions/"),
    "mmeb": FormatInfo("MMEB's training and evaluation rows, Parquet or JSON lines, with <|image_1|> where the picture goes"),
    "unite": FormatInfo("UNITE's JSON: query, candidate and negative with any of text, image and video"),
    "flagembedding": FormatInfo("FlagEmbedding's JSON lines: query, pos and neg as texts, with a teacher's scores"),
    "ms-swift": FormatInfo("ms-swift's JSON lines: messages, positive_messages and negative_messages with <image> and <video>"),
    "tevatron": FormatInfo("Tevatron: queries with ids of documents and a corpus, or the older rows with their passages"),
    "sentence-transformers": FormatInfo(
        "columns in the order anchor, positive, negatives, and a label or scores, as sentence-transformers trains on them"
    ),
    "webqa": FormatInfo("WebQA as MARVEL and UniVL-DR ship it: snippets, captioned pictures in a TSV with a line index, questions"),
    "vid2r": FormatInfo("MIRe's ViD2R JSON: questions about pictures, with passages and concise answers"),
    "webdataset": FormatInfo("WebDataset: tars of pictures with captions"),
    "hf-images": FormatInfo("Hugging Face image data sets as Parquet: pictures with captions or labels"),
    "folder": FormatInfo(
        "a plain folder of pictures, sub-folders too, with captions in CSV, TSV, JSON lines or files beside them, or none"
    ),
    "table": FormatInfo(
        "CSV, TSV, JSON lines or Parquet of any column names, which sources.columns names; pictures beside them", written=False
    ),
    "nlvr": FormatInfo("Cornell NLVR as published or as Parquet: sentences, and pictures of which they are true or false", written=False),
    "okvqa": FormatInfo(
        "OK-VQA with its passages of a Google search, or of Wikipedia: questions about pictures, and answers", written=False
    ),
    "remuq": FormatInfo("ReMuQ: questions with pictures, and a corpus of passages", written=False),
    "m2kr": FormatInfo("E-VQA and InfoSeek of M2KR, Parquet: questions about pictures, answers, and passages", written=False),
    "vidore": FormatInfo("ViDoRe 1 to 3, Parquet: pages as pictures, and questions; one data set or a folder of them", written=False),
    "mmeb-v2": FormatInfo("MMEB-V2: the folder of its repository, with pictures, clips and pages", written=False),
}
"""All formats by name, in the order in which `readers.FORMAT_MODULES` detects them; here, so that `list` need not import any of them."""
CAPTIONED = ("webdataset", "hf-images", "folder", "table")
"""Formats of pictures with captions, which may be read together."""
OF_DATASETS = ("mbeir", "mmeb", "m2kr", "vidore", "mmeb-v2")
"""Formats whose data sets are files or folders of their own, of which some may be read."""
ROLES = ("picture", "text", "id", "query", "split")
"""What a column of the format table may hold."""
COLUMN = re.compile(r"(?:(?P<name>[^:=\s]+):)?(?P<role>[^:=\s]+)=(?P<column>.*\S)")
SPLIT = re.compile(r"(?:(?P<name>[^:=\s]+):)?(?P<old>[^:=\s]+)=(?P<new>[^=\s]+)")


EQUAL = "equal to an earlier row"
"""The reason that is counted for a row that is merged with an earlier one."""


@dataclass(frozen=True)
class SourcesConfig:
    """Where the corpus comes from."""

    path: tuple[str, ...] = option((), "folders, files or URIs, each [NAME=][FORMAT+]PATH; empty: the generated world")
    format: str = option("auto", f"format of the paths that name none: auto, {', '.join(FORMATS)}")
    images: str | None = option(None, "folder or URI that the paths of pictures are relative to; null: the source's own")
    splits: tuple[str, ...] = option((), "splits to rename: dev=train in all sources, or NAME:dev=train in the source NAME alone")
    only_splits: tuple[str, ...] = option(
        (), "splits, by their new names, whose queries and triples are read with their judgements; empty: those of all splits"
    )
    only_datasets: tuple[str, ...] = option(
        (),
        f"data sets that are read, by name or pattern: mscoco, ViDoRe_*, Video; their names are in docs/benchmarks.md; for "
        f"{', '.join(OF_DATASETS)}; empty: all",
    )
    uniir_texts: bool = option(
        False, "M-BEIR's texts as UniIR formats them: without quotes around, the first letter a capital, with a stop at the end"
    )
    columns: tuple[str, ...] = option(
        (), f"columns of the format table: ROLE=COLUMN, or NAME:ROLE=COLUMN for one source; ROLE is {', '.join(ROLES)}"
    )
    captions: Literal["apart", "together"] = option(
        "apart",
        "apart: a picture and its caption are two candidates, and the caption is a query for the picture; "
        "together: they are one candidate, with which no query is made",
    )
    workers: int | None = option(None, "pieces that are read at a time; null: as many as the cluster's CPUs", decides=False)
    world: WorldConfig = option(WorldConfig, "the generated world, for when path is empty")

    def __post_init__(self) -> None:
        refuse_unknown(self, "sources.")
        assert not isinstance(self.path, str), "path is a tuple of paths"
        assert not isinstance(self.only_splits, str), "only_splits is a tuple of names"
        assert not isinstance(self.only_datasets, str), "only_datasets is a tuple of names"
        for path in (*self.path, *filter(None, [self.images])):
            refuse_credentials(path)
        if self.format not in ("auto", *FORMATS):
            raise Refused(f"sources.format is {self.format!r}; give auto, or one of {', '.join(FORMATS)}")
        if self.workers is not None and self.workers < 1:
            raise Refused(f"sources.workers is {self.workers}; give 1 or more, or null")
        for entry in self.splits:
            if not SPLIT.fullmatch(entry):
                raise Refused(f"sources.splits has {entry!r}; give old=new, such as dev=train, or NAME:old=new for one source")
        for split in self.only_splits:
            if not SPLIT.fullmatch(f"split={split}"):
                raise Refused(f"sources.only_splits has {split!r}; give names of splits, such as test, as sources.splits renames them")
        if any(not name.strip() for name in self.only_datasets):
            raise Refused("sources.only_datasets has an empty name; give names of data sets, or patterns such as ViDoRe_*")
        given: dict[str | None, list[str]] = {}
        for entry in self.columns:
            parts = COLUMN.fullmatch(entry)
            if not parts or parts["role"] not in ROLES:
                raise Refused(f"sources.columns has {entry!r}; give ROLE=COLUMN, such as picture=file, where ROLE is {', '.join(ROLES)}")
            given.setdefault(parts["name"], []).append(parts["role"])
        for name, roles in given.items():
            of = f" of {name}" if name else ""
            if twice := next((role for role in roles if role != "text" and roles.count(role) > 1), None):
                raise Refused(f"sources.columns{of} names two columns for {twice}; give one: only text may have several, which are joined")
