"""Rows of MMEB-V2's sets of clips: a clip is a folder of frames, of which eight are taken, evenly spaced."""

import ast
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mirepoix.components.ingestion.formats.benchmark_files import files_below
from mirepoix.components.ingestion.formats.fields import Examples, list_of, text_of
from mirepoix.components.ingestion.formats.mmeb_v2_sets import SOUGHT_BY_CLIP, SOUGHT_BY_PICTURE, VideoSet
from mirepoix.components.ingestion.formats.rows import Candidate, Row, RowError, Unreadable, unnamed_candidate
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles, is_ending
from mirepoix.models.item import Item
from mirepoix.models.picture_formats import PICTURE_ENDINGS

FRAMES = 8
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NUMBERS = re.compile(r"(\d+)")


class Clips:
    """The clips in a folder: their frames, in the order of the numbers in their names."""

    def __init__(self, tree: SourceFiles, folder: str):
        self.tree, self.folder = tree, folder
        self.frames: dict[str, list[str]] = {}
        for name in files_below(tree, folder):
            if is_ending(name, *(f".{ending}" for ending in PICTURE_ENDINGS)):
                self.frames.setdefault(name.rpartition("/")[0], []).append(name)

    def clip(self, name: str) -> tuple[bytes, ...]:
        """The frames of a clip, given by its folder in this one; RowError if it has none."""
        found = sorted(self.frames.get(f"{self.folder}/{name}", ()), key=_natural)
        if not found:
            raise RowError("missing picture", f"{self.folder}/{name} has no frames")
        chosen = np.linspace(0, len(found) - 1, FRAMES, dtype=int) if len(found) >= FRAMES else range(len(found))
        return tuple(self.picture(found[index]) for index in chosen)

    def picture(self, file: str) -> bytes:
        """A picture of the source; RowError if there is none."""
        if file not in self.tree.sizes:
            raise RowError("missing picture", file)
        return self.tree.bytes(file, 0, self.tree.sizes[file])

    def inside(self, name: str) -> list[str]:
        """The clips that lie in the folder of one, by their last step."""
        above = f"{self.folder}/{name}"
        return sorted(found.rpartition("/")[2] for found in self.frames if found.rpartition("/")[0] == above)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in _NUMBERS.split(name)]


def class_lists(tree: SourceFiles, file: str) -> dict[str, list[str]]:
    """The classes by data set, from VLM2Vec's file of them: lists, and a dict that names them; it is parsed and not run."""
    with tree.stream(file) as stream:
        try:
            body = ast.parse(stream.read()).body
        except (SyntaxError, ValueError) as error:
            raise Unreadable(f"{tree.source(file)} is no Python file; download it again") from error
    assigned = {node.targets[0].id: node.value for node in body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    found: dict[str, list[str]] = {}
    for value in assigned.values():
        if isinstance(value, ast.Dict):
            for key, named in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(named, ast.Name) and isinstance(assigned.get(named.id), ast.List):
                    found[str(key.value)] = list(map(str, ast.literal_eval(assigned[named.id])))
    return found


class Rows:
    """Makes the rows of a set; a method for each kind, as mmeb_v2_sets.py names them."""

    def __init__(self, tree: SourceFiles, shard: Shard, given: VideoSet, folder: str, classes: Sequence[str] = ()):
        self.examples, self.given = Examples(tree, shard, "test"), given
        self.clips, self.subset = Clips(tree, folder), posixpath.basename(shard.file).partition(".")[0]
        self.classes = set(classes)
        self.seen: dict[str, str] = {}  # clip -> id of the candidate

    def parse(self, line: int, row: dict[str, Any]) -> Iterator[Row]:
        return getattr(self, self.given.kind)(line, row)

    # Classes and answers: a clip is the query, texts are the candidates

    def labelled(self, line: int, row: dict[str, Any]) -> Iterator[Row]:
        """A clip and its class; the other classes are candidates of the whole set."""
        label = _text(row, "pos_text")
        own = unnamed_candidate(label, source=self.examples.source, line=line)
        if label not in self.classes:
            yield own
        yield from self._judged(line, self._asked(self.clips.clip(_name(row, "video_id"))), [own.item.id], [])

    def chosen(self, line: int, row: dict[str, Any]) -> Iterator[Row]:
        """A clip, its class, and the classes among which it is chosen."""
        yield from self._among(line, _name(row, "video_id"), "", [_text(row, "pos_text"), *list_of(row.get("neg_text"), "neg_text")], 0)

    def lettered(self, line: int, row: dict[str, Any]) -> Iterator[Row]:
        """A question of MVBench, whose candidates are lettered; the clip lies in the folder of the subset."""
        options, right = list_of(row["candidates"], "candidates"), _text(row, "answer")
        if right not in options:
            raise RowError("no answer", f"{right[:80]!r} is none of the candidates")
        lettered = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
        text = _with_options(_text(row, "question"), lettered)
        yield from self._among(line, f"{self.subset}/{_name(row, 'video')}", text, lettered, options.index(right))

    def listed(self, line: int, row: dict[str, Any]) -> Iterator[Row]:
        """A question of Video-MME, whose options begin with their letters, and whose answer is a letter."""
        options = list_of(row["options"], "options")
        text = "\n".join([_text(row, "question"), *options])
        yield from self._among(line, _name(row, "videoID"), text, _unlettered(options), LETTERS.index(_text(row, "answer")))

    def numbered(self, line: int, row: dict[str, Any]) -> Iterator[Row]:
        """A question of NExT-QA: five options in columns, and the number of the answer."""
        options = [_text(row, f"a{number}") for number in range(5)]
        text = _with_options(_text(row, "question"), [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)])
        yield from self._among(line, _name(row, "video"), text, options, int(row["answer"]))

    def spaced(self, line: int, row: dict[str, Any]) -> Iterator[Row]:
        """A question of EgoSchema, whose options begin with their letters, and whose answer is a number."""
        options = list_of(row["option"], "option")
        text = _text(row, "question") + " ".join(options)
        yield from self._among(line, _name(row, "video_idx"), text, _unlettered(options), int(row["answer"]))

    def yes_or_no(self, line: int, row: dict[str, Any]) -> Iterator[Row]:
        """A question of ActivityNet-QA that is answered by yes or no."""
        options, right = ["yes", "no"], _text(row, "answer")
        if right not in options:
            raise RowError("no answer", f"the answer is {right[:80]!r}, and neither yes nor no")
        text = f"{_text(row, 'question')}? (A) yes; (B) no."
        yield from self._among(line, f"v_{_name(row, 'video_name')}", text, options, options.index(right))

    # Retrieval: clips are the candidates

    def retrieval(self, line: int, row: dict[str, Any]) -> Iterator[Row]:
        """A caption, or the first of several, and the clip that it is of."""
        clip, column = self.given.columns
        text = row[column][0] if isinstance(row[column], list) and row[column] else row[column]
        query = Item("", text_of(text).strip(), instruction=self.given.instruction)
        if not query.text:
            raise RowError("empty side", column)
        name = _name(row, clip)
        yield from self._found(line, query, [_stem(name) if clip == "video" else name], [])  # DiDeMo's are files

    def moments(self, line: int, row: dict[str, Any]) -> Iterator[Row]:
        """A scene in a clip: the folder of the clip has its frames in query/, and its parts in positive... and other folders."""
        name = _stem(_name(row, "video_path"))
        parts = [part for part in self.clips.inside(name) if part != "query"]
        right, wrong = ([part for part in parts if part.startswith("positive") == wanted] for wanted in (True, False))
        query = self._asked(self.clips.clip(f"{name}/query"), _text(row, "query"))
        yield from self._found(line, query, [f"{name}/{part}" for part in right], [f"{name}/{part}" for part in wrong])

    def sought(self, line: int, row: dict[str, Any]) -> Iterator[Row]:
        """A text, with a picture or a clip where there is one, and the clips that are right and wrong."""
        given, text = text_of(row.get("input_frames")), _text(row, "query")
        if given.endswith(".mp4"):
            query = Item("", text, video=self.clips.clip(_flat(given)), instruction=SOUGHT_BY_CLIP)
        elif given.endswith(".jpg"):
            query = Item("", text, (self.clips.picture(f"{self.clips.folder}/query_{given}"),), instruction=SOUGHT_BY_PICTURE)
        else:
            query = Item("", text, instruction=self.given.instruction)
        right, wrong = (
            [_flat(cell["output_path"]) for cell in list_of(row.get(key), key)] for key in ("positive_frames", "negative_frames")
        )
        yield from self._found(line, query, right, wrong)

    # What these have in common

    def _asked(self, video: tuple[bytes, ...], text: str = "") -> Item:
        return Item("", text, video=video, instruction=self.given.instruction)

    def _among(self, line: int, clip: str, text: str, options: Sequence[Any], right: int) -> Iterator[Row]:
        """A clip with a question, and its options as candidates, of which one is right."""
        if not 0 <= right < len(options):
            raise RowError("no answer", f"answer number {right} of {len(options)}")
        query = self._asked(self.clips.clip(clip), text)
        texts = dict.fromkeys(map(text_of, (options[right], *options)))
        made = [unnamed_candidate(option, source=self.examples.source, line=line) for option in texts]
        yield from made
        ids = [candidate.item.id for candidate in made]
        yield from self._judged(line, query, ids[:1], ids[1:])

    def _found(self, line: int, query: Item, right: Sequence[str], wrong: Sequence[str]) -> Iterator[Row]:
        """A query, and the clips that are right and wrong for it."""
        made = {name: self._clip(line, name) for name in dict.fromkeys((*right, *wrong)) if name not in self.seen}
        ids = self.seen | {name: candidate.item.id for name, candidate in made.items()}
        judged = self._judged(line, query, [ids[name] for name in right], [ids[name] for name in wrong])
        self.seen = ids
        yield from made.values()
        yield from judged

    def _clip(self, line: int, name: str) -> Candidate:
        return self.examples.candidate(line, Item("", video=self.clips.clip(name), instruction=self.given.target))

    def _judged(self, line: int, query: Item, right: Iterable[str], wrong: Iterable[str]) -> list[Row]:
        right = list(dict.fromkeys(right))
        others = [id for id in dict.fromkeys(wrong) if id not in right]
        return self.examples.judged_query(line, query, [(id, None) for id in right], [(id, None) for id in others])


def _text(row: dict[str, Any], column: str) -> str:
    """The text of a cell; RowError if it is empty."""
    text = text_of(row[column])
    if not text:
        raise RowError("empty side", column)
    return text


def _name(row: dict[str, Any], column: str) -> str:
    """The folder of the clip that a cell names."""
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise RowError("bad row", f"{column} is {value!r:.80} and names no clip")
    return str(value)


def _stem(path: str) -> str:
    """The folder of a clip that is named by its file: without folders and ending."""
    return posixpath.splitext(posixpath.basename(path))[0]


def _flat(path: str) -> str:
    """The folder of a clip of MomentSeeker: its path in one step."""
    return "video_frames/" + path.partition(".mp4")[0].replace("/", "_")


def _unlettered(options: Sequence[Any]) -> list[str]:
    """The options without the letters that they begin with, and without points around them."""
    return [text_of(option)[text_of(option).find(". ") :].strip(". ") for option in options]


def _with_options(question: str, options: Iterable[str]) -> str:
    return "\n".join([question, "Options:", *options])
