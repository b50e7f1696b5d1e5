"""Clips as folders of frames, lists of classes in a Python file, and bad rows."""

import pytest

from mirepoix.components.ingestion.formats import mmeb_v2
from mirepoix.components.ingestion.formats.mmeb_v2_video import Clips, class_lists
from mirepoix.components.ingestion.formats.rows import RowError, Unreadable
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from tests.components.ingestion.formats.format_cases import rejected_rows, rows_of, write_files
from tests.components.ingestion.formats.miniatures import drawing


def test_frames_are_in_the_order_of_their_numbers_and_other_files_are_none(tmp_path):
    files = {f"f/a/frame_{number}.jpg": drawing(number) for number in (10, 2, 1)} | {"f/a/notes.txt": "x", "f/ab/frame_1.jpg": drawing(9)}
    clips = Clips(SourceFiles(str(write_files(tmp_path, files))), "f")
    assert clips.clip("a") == (drawing(1), drawing(2), drawing(10))
    with pytest.raises(RowError, match="f/b has no frames"):
        clips.clip("b")


def test_more_than_eight_frames_are_thinned_evenly_from_the_first_to_the_last(tmp_path):
    clips = Clips(SourceFiles(str(write_files(tmp_path, {f"f/a/{number:02d}.png": drawing(number) for number in range(15)}))), "f")
    assert clips.clip("a") == tuple(drawing(number) for number in range(0, 15, 2))


def test_classes_are_parsed_and_nothing_is_run(tmp_path):
    write_files(
        tmp_path,
        {"c.py": "raise SystemExit\nA = ['x', 'y']\nB = ['z']\nN = 1\nM = {'One': A, 'Two': B, 'No': N, 'Gone': C}\n", "bad.py": "A = ["},
    )
    tree = SourceFiles(str(tmp_path))
    assert class_lists(tree, "c.py") == {"One": ["x", "y"], "Two": ["z"]}
    with pytest.raises(Unreadable, match="is no Python file"):
        class_lists(tree, "bad.py")


FRAME = {"video-tasks/frames/video_qa/Video-MME/m/1.jpg": drawing(1), "video-tasks/frames/video_qa/MVBench/s/m/1.jpg": drawing(1)}


@pytest.mark.parametrize(
    ("file", "row", "reason"),
    [
        ("video-mme.jsonl", {"videoID": "n", "question": "?", "options": ["A. x"], "answer": "A"}, "missing picture"),
        ("video-mme.jsonl", {"videoID": "m", "question": "?", "options": ["A. x"], "answer": "B"}, "no answer"),
        ("video-mme.jsonl", {"videoID": "m", "question": "?", "options": ["A. x"], "answer": "?"}, "bad row"),
        ("video-mme.jsonl", {"videoID": "m", "question": "", "options": ["A. x"], "answer": "A"}, "empty side"),
        ("video-mme.jsonl", {"videoID": None, "question": "?", "options": ["A. x"], "answer": "A"}, "bad row"),
        ("mvbench/s.json", {"video": "m", "question": "?", "candidates": ["x"], "answer": "y"}, "no answer"),
    ],
)
def test_each_bad_row_is_rejected_with_its_number(tmp_path, file, row, reason):
    folder = write_files(tmp_path / "s", {f"video-tasks/data/{file}": [row], **FRAME})
    assert rejected_rows(rows_of(mmeb_v2, folder)) == [(f"s/video-tasks/data/{file}", 1, reason)]
