"""MMEB-V2, the folder of its repository with its archives unpacked, and the rows of its data sets beside them.

    image-tasks/<set>/...                               pictures of mmeb_v1.tar.gz, also below image-tasks/MMEB/
    image-query/<set>/test-*.parquet                    rows of ziyjiang/MMEB_Test_Instruct, in any folder; see mmeb.py
    video-tasks/data/<set>.jsonl (.json, .parquet)      rows of the clips
    video-tasks/frames/video_{cls,qa,ret,mret}/...      frames of the clips, a folder for each
    video_classification_utils.py                       the classes of K700, HMDB51, UCF101 and Breakfast, in any folder
    visdoc-tasks/data/<set>/{corpus,queries,qrels}/     pages; see beir_parquet.py

Any of the 78 sets may be there; those that are not are named in a notice, and a set without a file that it needs is refused. A set is
chosen by its name, or with its group: Image, Video or VisDoc. Each set is a pool of its own. Where it ranks a list for each query, the
others of the list are judged irrelevant; where it ranks all of its candidates, nothing but the answer is judged. The split is test.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from mirepoix.components.ingestion.formats import beir_parquet, mmeb
from mirepoix.components.ingestion.formats.benchmark_files import (
    PICTURED,
    UNPACKED,
    DataSet,
    Missing,
    files_below,
    needed_file,
    refuse_missing,
    some_of,
    with_members,
)
from mirepoix.components.ingestion.formats.fields import pieces, records
from mirepoix.components.ingestion.formats.mmeb_v2_sets import CORRECTED, IMAGE, PAGE, PAGE_QUERY, SETS, VIDEO, VISDOC, VideoSet
from mirepoix.components.ingestion.formats.mmeb_v2_video import Rows, class_lists
from mirepoix.components.ingestion.formats.rows import Member, Notice, Query, Row, rowwise, unnamed_candidate
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality

NAME = "mmeb-v2"
OVER = ("mmeb", "hf-images", "vidore", "sentence-transformers", "folder", "vid2r")
ORIGIN = "hf.co/datasets/TIGER-Lab/MMEB-V2"
IMAGE_ROWS = rf"(?:.*/)?(?P<set>{'|'.join(map(re.escape, IMAGE))})/test(?:[-_.][^/]*)?\.parquet"
FRAMES = "video-tasks/frames"
CLASSES = r"video_classification_utils\.py"
NO_CLASSES = Missing("video_classification_utils.py", "github.com/TIGER-AI-Lab/VLM2Vec (src/data/eval_dataset)")
SPLITS = ("train", "test")  # VisRAG's sets are published as train; a folder with both is read as test
GROUPS = {"Image": PICTURED, "Video": Modality.TEXT | Modality.VIDEO, "VisDoc": PICTURED}
"""The groups of sets, and what their items have; MomentSeeker has pictures too."""


def detect(tree: SourceFiles) -> bool:
    """One of its folders of clips or pages, or its folder of pictures beside rows of MMEB."""
    return bool(_video_files(tree) or _visdoc(tree) or (_image_files(tree) and files_below(tree, "image-tasks")))


def named_splits(tree: SourceFiles) -> set[str]:
    return {"test"}


def datasets(tree: SourceFiles) -> list[DataSet]:
    pages = dict.fromkeys(VISDOC[_last(folder)] for folder in _visdoc(tree))
    names = {"Image": [*_image_files(tree)], "Video": [*_video_files(tree)], "VisDoc": [*pages]}
    return [DataSet(name, name, (group,), modality=GROUPS[group]) for group, found in names.items() for name in found]


def missing(tree: SourceFiles) -> list[Missing]:
    image, video, visdoc = _read(tree)
    if not (image or video or visdoc):
        return [Missing(f"rows of each of the {len(SETS)} sets", f"{ORIGIN}, and the pages that it names")]
    found = []
    if unpictured := [name for name, files in image.items() if not _pictures(tree, name, files[0])]:
        what = f"image-tasks/{unpictured[0]}/, the pictures of {some_of(unpictured)}"
        found.append(Missing(what, f"image-tasks/mmeb_v1.tar.gz at {ORIGIN}", UNPACKED))
    frameless: dict[str, list[str]] = {}  # by archive
    for name in video:
        if not _frames(tree, VIDEO[name]):
            frameless.setdefault(VIDEO[name].frames[0].partition("/")[0], []).append(name)
    for archive, names in frameless.items():
        what = f"{FRAMES}/{VIDEO[names[0]].frames[0]}/, the frames of {some_of(names)}"
        found.append(Missing(what, f"{FRAMES}/{archive}.tar.gz at {ORIGIN}", "unpack it there"))
    if any(VIDEO[name].labels for name in video) and not tree.files(rf"(.*/)?{CLASSES}"):
        found.append(NO_CLASSES)
    parted = [(folder, parts) for folder, (_, parts) in visdoc.items()]
    return found + [
        each for folder, parts in parted for each in beir_parquet.missing_parts(folder, parts, f"visdoc-tasks.data.tar.gz at {ORIGIN}")
    ]


def shards(tree: SourceFiles) -> list[Shard]:
    refuse_missing(tree, NAME, missing(tree))
    image, video, visdoc = _read(tree)
    found = [*image, *video, *(VISDOC[_last(folder)] for folder in visdoc)]
    if twice := next((name for name in found if found.count(name) > 1), None):
        raise Refused(f"{tree.path!r} has {twice} twice; leave one of {', '.join(key for key, name in VISDOC.items() if name == twice)}")
    made: list[Shard] = []
    for name, files in image.items():
        made += pieces(tree, files, f"image {name}")
    classes = needed_file(tree, NAME, CLASSES, NO_CLASSES) if any(VIDEO[name].labels for name in video) else ""
    for name, files in video.items():
        made += pieces(tree, files, f"video {name}\n{_frames(tree, VIDEO[name])}\n{classes}")
    if classes:
        made.append(Shard(classes, f"classes {' '.join(name for name in video if VIDEO[name].labels)}"))
    for folder, (_, parts) in visdoc.items():
        made += [replace(piece, part=f"visdoc {piece.part}") for piece in beir_parquet.shards_of(tree, NAME, folder, parts)]
    return [*made, Shard(made[0].file, "notices")]


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    kind, _, about = shard.part.partition(" ")
    source = tree.source(shard.file)
    match kind:
        case "notices":
            return _notices(tree)
        case "image":
            return _in_set(about, mmeb.read(_view(tree, _image_folder(tree, about)), replace(shard, part="")))
        case "classes":
            lists = class_lists(tree, shard.file)
            return _of_classes(source, {name: lists.get(VIDEO[name].labels, []) for name in about.split()})
        case "visdoc":
            inner = replace(shard, part=about)
            name = VISDOC[_last(beir_parquet.folder_of(inner))]
            return with_members(name, beir_parquet.read_piece(tree, inner, name, name, instructions=(PAGE_QUERY, PAGE)))
    name, folder, classes = about.split("\n")
    given = VIDEO[name]
    own = class_lists(tree, classes).get(given.labels, []) if given.labels else []
    rows = Rows(tree, shard, given, folder, own)
    return _in_set(name, rowwise("queries", source, records(tree, replace(shard, part="")), rows.parse))


def _in_set(name: str, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows as those of a set: queries with its name and pool, candidates as members of the pool."""
    named = (replace(row, split="test", dataset=name, pool=name) if isinstance(row, Query) else row for row in rows)
    return with_members(name, (row for row in named if not isinstance(row, Member)))


def _of_classes(source: str, lists: dict[str, list[str]]) -> Iterator[Row]:
    """The classes of each set as candidates."""
    for name, classes in lists.items():
        yield from with_members(name, (unnamed_candidate(label, source=source) for label in dict.fromkeys(classes)))


def _notices(tree: SourceFiles) -> Iterator[Row]:
    image, video, visdoc = _read(tree)
    present = {*image, *video, *(VISDOC[_last(folder)] for folder in visdoc)}
    if absent := [name for name in SETS if name not in present and not tree.only_datasets]:
        yield Notice(tree.name, f"{len(absent)} of the {len(SETS)} sets of MMEB-V2 are not in the folder: {some_of(absent)}")
    for folder in visdoc:
        if later := CORRECTED.get(_last(folder)):
            yield Notice(tree.source(folder), f"the judgements of this folder were corrected in VLM2Vec/{later}; scores are not comparable")


# Files


def _read(tree: SourceFiles) -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, tuple[str, dict[str, list[str]]]]]:
    """The files of the sets that are read: of pictures and clips by name, of pages by folder."""
    image, video, visdoc = _image_files(tree), _video_files(tree), _visdoc(tree)
    return (
        {name: image[name] for name in image if tree.reads_dataset(name, "Image")},
        {name: video[name] for name in video if tree.reads_dataset(name, "Video")},
        {folder: visdoc[folder] for folder in visdoc if tree.reads_dataset(VISDOC[_last(folder)], "VisDoc")},
    )


def _last(folder: str) -> str:
    return folder.rpartition("/")[2]


def _image_files(tree: SourceFiles) -> dict[str, list[str]]:
    """The files of rows of the sets of pictures, in the order of the board."""
    found: dict[str, list[str]] = {}
    for file in tree.files(IMAGE_ROWS):
        match = re.fullmatch(IMAGE_ROWS, file, re.I)
        assert match is not None, file
        found.setdefault(match["set"], []).append(file)
    return {name: found[name] for name in IMAGE if name in found}


def _image_folder(tree: SourceFiles, name: str) -> str:
    """The folder that the paths of a set's pictures are relative to; empty if it has none of the set."""
    if tree.images:
        return tree.images
    for base in ("image-tasks", "image-tasks/MMEB"):
        if any(not file.endswith(".parquet") for file in files_below(tree, f"{base}/{name}")):
            return f"{tree.given_root}/{base}"
    return ""


def _pictures(tree: SourceFiles, name: str, file: str) -> bool:
    """Whether there are pictures of a set, of which a file of rows is given."""
    folder = _image_folder(tree, name)
    return bool(folder) and not mmeb.first_missing_picture(_view(tree, folder), file)


def _view(tree: SourceFiles, folder: str) -> SourceFiles:
    """The same source, with its pictures in a folder."""
    return SourceFiles(tree.path, tree.name, folder)


def _video_files(tree: SourceFiles) -> dict[str, list[str]]:
    """The files of rows of the sets of clips, in the order of the board."""
    there = files_below(tree, "video-tasks/data")
    patterns = {name: re.compile(rf"video-tasks/data/{given.rows}\.(jsonl|json|parquet)(\.gz)?", re.I) for name, given in VIDEO.items()}
    found = {name: [file for file in there if pattern.fullmatch(file)] for name, pattern in patterns.items()}
    return {name: files for name, files in found.items() if files}


def _frames(tree: SourceFiles, given: VideoSet) -> str:
    """The folder of a set's frames; empty if there is none."""
    return next((folder for found in given.frames if files_below(tree, folder := f"{FRAMES}/{found}")), "")


def _visdoc(tree: SourceFiles) -> dict[str, tuple[str, dict[str, list[str]]]]:
    """The split and files of the sets of pages by their folder."""
    return {
        folder: (split, parts)
        for split in SPLITS
        for folder, parts in beir_parquet.files_of(tree, split).items()
        if folder.startswith("visdoc-tasks/") and _last(folder) in VISDOC
    }
