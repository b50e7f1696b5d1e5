"""The config of `sources`: the paths of corpora and their formats."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from mirepoix.components.synthetic.world_config import WorldConfig
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
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
    "folder": FormatInfo("a plain folder of pictures, sub-folders too, with a CSV, TSV or JSON lines of captions if there are any"),
    "nlvr": FormatInfo("Cornell NLVR as Parquet: sentences, and pictures of which they are true or false", written=False),
}
"""All formats by name, in the order in which `readers.FORMAT_MODULES` detects them; here, so that `list` need not import any of them."""
SPLIT = re.compile(r"(?:(?P<name>[^:=\s]+):)?(?P<old>[^:=\s]+)=(?P<new>[^=\s]+)")


@dataclass(frozen=True)
class SourcesConfig:
    """Where the corpus comes from."""

    path: tuple[str, ...] = option((), "folders, files or URIs, each [NAME=][FORMAT+]PATH; empty: the generated world")
    format: str = option("auto", f"format of the paths that name none: auto, {', '.join(FORMATS)}")
    images: str | None = option(None, "folder or URI that the paths of pictures are relative to; null: the source's own")
    splits: tuple[str, ...] = option((), "splits to rename: dev=train in all sources, or NAME:dev=train in the source NAME alone")
    workers: int | None = option(None, "pieces that are read at a time; null: as many as the cluster's CPUs")
    world: WorldConfig = option(WorldConfig, "the generated world, for when path is empty")

    def __post_init__(self) -> None:
        assert not isinstance(self.path, str), "path is a tuple of paths"
        for path in (*self.path, *filter(None, [self.images])):
            refuse_credentials(path)
        if self.format not in ("auto", *FORMATS):
            raise Refused(f"sources.format is {self.format!r}; give auto, or one of {', '.join(FORMATS)}")
        if self.workers is not None and self.workers < 1:
            raise Refused(f"sources.workers is {self.workers}; give 1 or more, or null")
        for entry in self.splits:
            if not SPLIT.fullmatch(entry):
                raise Refused(f"sources.splits has {entry!r}; give old=new, such as dev=train, or NAME:old=new for one source")
