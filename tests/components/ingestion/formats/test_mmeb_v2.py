"""MMEB-V2: sets of pictures, clips and pages in the published folders, what is missing, and what is refused."""

import shutil

import pytest

from mirepoix.components.ingestion.formats import mmeb_v2
from mirepoix.components.ingestion.formats.mmeb_v2_sets import SETS, VIDEO, VISDOC
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Member, Notice, Query
from mirepoix.models.errors import Refused
from tests.components.ingestion.formats.format_cases import rows_of, write_files
from tests.components.ingestion.formats.miniatures import beir_pages, drawing
from tests.components.ingestion.formats.miniatures import mmeb_v2 as sample


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return rows_of(mmeb_v2, sample(tmp_path_factory.mktemp("mmeb") / "s"))


def shown(item):
    return item.text or [len(item.images), len(item.video)]


def judged(rows, dataset):
    """Each query of a set with its instruction, and the candidates that it judges, right ones first."""
    items = {row.item.id: row.item for row in rows if isinstance(row, Candidate)}
    found = []
    for row in rows:
        if isinstance(row, Query) and row.dataset == dataset:
            others = [
                (shown(items[other.item_id]), other.relevance)
                for other in rows
                if isinstance(other, Judgement) and other.query_id == row.item.id
            ]
            found.append((row.item.text, row.item.instruction, others))
    return found


def members(rows, pool):
    items = {row.item.id: row.item for row in rows if isinstance(row, Candidate)}
    return [shown(items[row.item_id]) for row in rows if isinstance(row, Member) and row.pool == pool]


def test_there_are_78_sets():
    assert len(SETS) == 78 and len(VIDEO) == 18 and len(set(VISDOC.values())) == 24


def test_every_query_is_of_the_test_split_and_of_the_pool_of_its_set(rows):
    queries = [row for row in rows if isinstance(row, Query)]
    assert {row.split for row in queries} == {"test"} and all(row.dataset == row.pool for row in queries)
    assert len({row.dataset for row in queries}) == 18


def test_pictures_are_ranked_in_the_list_of_their_query(rows):
    first, _ = judged(rows, "ImageNet-1K")
    assert first == ("", "Represent the given image for classification", [("anchor", 1), ("engine", 0), ("fountain", 0), ("guitar", 0)])
    assert members(rows, "ImageNet-1K") == ["anchor", "engine", "fountain", "guitar", "bridge"]
    (_, _, found), _ = judged(rows, "MSCOCO_t2i")
    assert found == [([1, 0], 1), ([1, 0], 0), ([1, 0], 0)]


def test_a_clip_is_classified_among_all_classes_of_its_set_and_eight_of_its_frames_are_read(rows):
    instruction = "What activities or sports are being performed by the person in the video?"
    assert judged(rows, "UCF101") == [("", instruction, [("Diving", 1)]), ("", instruction, [("Juggling", 1)])]
    assert sorted(members(rows, "UCF101")) == ["Archery", "Diving", "Juggling", "Rowing"]
    long, short = [row.item.video for row in rows if isinstance(row, Query) and row.dataset == "UCF101"]
    assert long == tuple(drawing(600 + frame) for frame in (0, 2, 4, 6, 9, 11, 13, 16)) and len(short) == 2  # as int(16 * n / 7)


def test_a_clip_is_classified_among_the_classes_of_its_row(rows):
    assert judged(rows, "SmthSmthV2")[0][2] == [("Closing it", 1), ("Opening it", 0), ("Moving it", 0)]


def test_a_question_about_a_clip_has_its_options_as_the_published_evaluation_words_them(rows):
    asked = {name: judged(rows, name)[0] for name in ("MVBench", "Video-MME", "NExTQA", "EgoSchema", "ActivityNetQA")}
    assert {entry[1] for entry in asked.values()} == {
        "Given a video and a question, select the most accurate answer from the provided candidates. "
        "Return only the exact text of your chosen answer. Question: "
    }
    assert asked["MVBench"][::2] == ("How many move?\nOptions:\n(A) 1\n(B) 2", [("(B) 2", 1), ("(A) 1", 0)])
    assert asked["Video-MME"][::2] == ("Who?\nA. One.\nB. Two.", [("Two", 1), ("One", 0)])
    text, _, options = asked["NExTQA"]
    assert text.startswith("why?\nOptions:\n(A) reason 0\n(B) reason 1\n") and options[:2] == [("reason 1", 1), ("reason 0", 0)]
    assert asked["EgoSchema"][::2] == ("What for? A. Tea B. Fun", [("Tea", 1), ("Fun", 0)])
    assert asked["ActivityNetQA"][::2] == ("is it day? (A) yes; (B) no.", [("no", 1), ("yes", 0)])


def test_a_caption_finds_its_clip_among_all_of_the_set(rows):
    found = judged(rows, "MSR-VTT")
    assert [entry[0] for entry in found] == [f"someone plays the {thing}" for thing in ("anchor", "bridge", "candle")]
    assert all(entry[2] == [([0, 2], 1)] for entry in found) and members(rows, "MSR-VTT") == [[0, 2]] * 3
    clips = {row.item.video: row.item.instruction for row in rows if isinstance(row, Candidate) and row.item.video}
    assert clips[drawing(690), drawing(691)] == "Understand the content of the provided video."
    assert judged(rows, "VATEX")[0][0] == "A child sings."  # the first of several
    assert judged(rows, "DiDeMo")[0][2] == [([0, 2], 1)]  # as the archive unpacks


def test_a_moment_is_found_among_the_parts_of_its_clip(rows):
    ((text, instruction, found),) = judged(rows, "QVHighlight")
    assert text == "the cook adds salt" and instruction.startswith("Find the clip that corresponds to the described scene")
    assert found == [([0, 2], 1), ([0, 2], 0)] and len(members(rows, "QVHighlight")) == 2
    (query,) = [row.item for row in rows if isinstance(row, Query) and row.dataset == "QVHighlight"]
    assert query.video == (drawing(720), drawing(721))


def test_a_moment_is_sought_by_a_text_with_a_picture_or_a_clip(rows):
    queries = [row.item for row in rows if isinstance(row, Query) and row.dataset == "MomentSeeker"]
    assert [(len(item.images), len(item.video)) for item in queries] == [(0, 0), (1, 0), (0, 2)]
    assert queries[1].images == (drawing(760),) and queries[2].video == (drawing(756), drawing(757))
    assert len({item.instruction for item in queries}) == 3
    assert [entry[2] for entry in judged(rows, "MomentSeeker")] == [[([0, 2], 1), ([0, 2], 1), ([0, 2], 0)]] * 3


def test_pages_have_the_instructions_of_the_protocol_and_a_pool_for_each_set(rows):
    assert len(members(rows, "ViDoRe_arxivqa")) == len(members(rows, "VisRAG_ChartQA")) == 6
    asked = judged(rows, "VisRAG_ChartQA")
    assert asked[0] == ("On which page is the anchor?", "Find a document image that matches the given query:", [([1, 0], 1)])


def test_the_sets_that_are_not_there_are_named_in_a_notice(rows):
    (notice,) = [row for row in rows if isinstance(row, Notice)]
    assert notice.detail == (
        "60 of the 78 sets of MMEB-V2 are not in the folder: N24News, HatefulMemes, VOC2007, SUN397, Place365, ImageNet-A and 54 more"
    )


def test_pages_whose_judgements_were_corrected_later_are_read_with_a_notice(tmp_path):
    found = rows_of(mmeb_v2, beir_pages(tmp_path / "s/visdoc-tasks/data/MMLongBench", 0).parents[2])
    assert {row.dataset for row in found if isinstance(row, Query)} == {"MMLongBench-page"}
    assert [row.detail for row in found if isinstance(row, Notice)][1].startswith("the judgements of this folder were corrected")
    beir_pages(tmp_path / "s/visdoc-tasks/data/MMLongBench-page-fixed", 0)
    with pytest.raises(Refused, match="MMLongBench-page twice; leave one of MMLongBench-page-fixed, MMLongBench"):
        rows_of(mmeb_v2, tmp_path / "s")


def test_pages_of_a_folder_with_training_rows_too_are_those_of_the_test_split(tmp_path):
    folder = tmp_path / "s/visdoc-tasks/data/esg_reports_v2"
    beir_pages(folder, 0, split="train")
    beir_pages(folder, 900)
    pictures = {row.item.images for row in rows_of(mmeb_v2, tmp_path / "s") if isinstance(row, Candidate)}
    assert pictures == {(drawing(900 + number),) for number in range(6)}


def test_pictures_may_lie_as_their_archive_unpacks(tmp_path):
    sample(tmp_path / "s")
    (tmp_path / "s/image-tasks").rename(tmp_path / "s/MMEB")
    shutil.move(tmp_path / "s/MMEB", tmp_path / "s/image-tasks/MMEB")
    assert judged(rows_of(mmeb_v2, tmp_path / "s"), "OK-VQA")[0][2][0] == ("harbour", 1)


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("image-tasks/OK-VQA", r"lacks image-tasks/OK-VQA/, the pictures of OK-VQA, .* image-tasks/mmeb_v1.tar.gz"),
        ("video-tasks/frames/video_cls/SSv2", r"video_cls/SSv2/, the frames of SmthSmthV2, .*/video_cls.tar.gz"),
        ("video_classification_utils.py", "lacks video_classification_utils.py, .* github.com/TIGER-AI-Lab/VLM2Vec"),
        ("visdoc-tasks/data/VisRAG-Ret-Test-ChartQA/qrels", r"VisRAG-Ret-Test-ChartQA/qrels/\*.parquet, .* visdoc-tasks.data.tar.gz"),
    ],
)
def test_a_set_without_a_file_that_it_needs_is_refused_with_its_origin(tmp_path, gone, words):
    path = sample(tmp_path / "s") / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(Refused, match=words):
        rows_of(mmeb_v2, tmp_path / "s")


def test_a_folder_without_any_set_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"lacks rows of each of the 78 sets, which mmeb-v2 needs; it comes from hf.co/datasets/TIGER-Lab"):
        rows_of(mmeb_v2, write_files(tmp_path / "s", {"image-tasks/a.png": drawing(1)}))
