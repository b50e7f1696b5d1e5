"""WebDataset tars: samples grouped by name, read in one pass over the stream, and bad members rejected with their numbers."""

import gzip
import io
import json
import tarfile

import pytest

from mirepoix.components.ingestion.formats import tars
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Query, RejectedRow, Unreadable, unnamed_candidate
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import corpus_of, meaning, picture, rejected_rows, rows_of, write_files

RED, BLUE = picture(200), picture(10, "JPEG")


def tar(*members):
    """The bytes of a tar: (name, content) is a file, a TarInfo is added as it is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                made.addfile(member)
                continue
            name, content = member
            content = content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode()
            about = tarfile.TarInfo(name)
            about.size = len(content)
            made.addfile(about, io.BytesIO(content))
    return buffer.getvalue()


def read(folder, *members, name="cc-000.tar"):
    packed = gzip.compress(tar(*members)) if name.endswith(".gz") else tar(*members)
    return rows_of(tars, write_files(folder, {name: packed}), name="mine")


def candidates(rows):
    return [row.item.id for row in rows if isinstance(row, Candidate) and row.named]


@pytest.mark.parametrize(("name", "key"), [("cc-000.tar", "cc-000"), ("cc-000.tar.gz", "cc-000.tar")])
def test_a_sample_is_what_shares_its_name_up_to_the_first_dot(tmp_path, name, key):
    rows = read(tmp_path, ("a/01.png", RED), ("a/01.txt", "a star\n"), ("a/02.jpg", BLUE), name=name)
    at = {"source": f"mine/{name}", "line": 1}
    text = unnamed_candidate("a star", **at)
    assert rows == [
        Candidate(Item(f"{key}/a/01.image", images=(RED,), **at)),
        Query(Item(f"{key}/a/01.i2t", images=(RED,), **at), "train", "i->t", named=False),
        text,
        Judgement(f"{key}/a/01.i2t", text.item.id, 1, None, *at.values()),
        Query(Item(f"{key}/a/01.t2i-91aeee11", "a star", **at), "train", "t->i", named=False),
        Judgement(f"{key}/a/01.t2i-91aeee11", f"{key}/a/01.image", 1, None, *at.values()),
        Candidate(Item(f"{key}/a/02.image", images=(BLUE,), source=f"mine/{name}", line=3)),
    ]


def test_samples_of_img2dataset_have_the_name_and_the_caption_of_their_files(tmp_path):
    about = {"key": "000000123", "caption": "a star", "url": "http://x/a.jpg", "status": "success", "width": 4, "sha256": "00"}
    rows = read(tmp_path, ("000000123.jpg", BLUE), ("000000123.json", about), ("000000123.txt", "a star"))
    assert candidates(rows) == ["000000123.image"] and len(rows) == 6


def test_captions_come_from_the_text_and_every_key_of_the_json(tmp_path):
    rows = read(tmp_path, ("1.txt", "one"), ("1.json", {"id": 7, "text": ["two", None], "captions": ["three", "one "]}), ("1.webp", RED))
    asked = [row.item.text for row in rows if isinstance(row, Query) and row.task == "t->i"]
    assert asked == ["two", "three", "one "] and candidates(rows) == ["7.image"]


def test_a_label_is_read_where_there_is_no_caption_and_its_number_is_not(tmp_path):
    rows = read(
        tmp_path, *(member for n, label in enumerate(["star", 3]) for member in ((f"{n}.png", RED), (f"{n}.json", {"label": label})))
    )
    assert [row.task for row in rows if isinstance(row, Query)] == ["i->t"] and not rejected_rows(rows)


def test_each_picture_of_a_sample_is_a_candidate(tmp_path):
    assert candidates(read(tmp_path, ("1.png", RED), ("1.jpg", BLUE))) == ["cc-000/1.png.image", "cc-000/1.jpg.image"]


def test_samples_that_are_counted_anew_in_each_tar_have_other_names(tmp_path):
    one = tar(("0.png", RED))
    rows = rows_of(tars, write_files(tmp_path, {"train/x 0.tar": one, "val/x-0.tar": one}))
    assert candidates(rows) == ["train/x_0/0.image", "val/x-0/0.image"]


def test_the_split_is_what_the_tar_is_called(tmp_path):
    rows = read(tmp_path, ("0.png", RED), ("0.txt", "a"), name="val-000.tar")
    assert {row.split for row in rows if isinstance(row, Query)} == {"validation"}


def test_a_bad_member_rejects_its_whole_sample_with_the_number_of_the_member(tmp_path):
    link = tarfile.TarInfo("2.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    folder = tarfile.TarInfo("a")
    folder.type = tarfile.DIRTYPE
    rows = read(
        tmp_path,
        folder,
        *[("1.png", RED), ("1.json", "{")],
        *[("2.txt", "linked"), link, ("2.json", {})],
        ("/3.png", RED),
        ("x/../4.png", RED),
        ("5.txt", "without a picture"),
        *[("6.png", RED), ("6.png", BLUE)],
        *[("7.png", RED), ("7.json", {"id": "a b"})],
        *[("8.png", RED), ("8.txt", b"\xff")],
        *[("9.png", RED), ("9.json", {"caption": 9})],
        ("10.mp4", b"x"),
        ("11.mp3", b"x"),
        ("12.png", b""),
        ("13.png", RED),
    )
    assert [(line, reason) for _, line, reason in rejected_rows(rows)] == [
        (2, "bad JSON"),
        (5, "bad row"),
        (7, "bad row"),
        (8, "bad row"),
        (9, "missing picture"),
        (11, "bad row"),
        (12, "bad id"),
        (14, "bad row"),
        (16, "bad row"),
        (18, "video file"),
        (19, "audio"),
        (20, "missing picture"),
    ]
    assert candidates(rows) == ["cc-000/13.image"]


def test_extensions_that_are_not_read_are_reported_once_a_tar_and_their_samples_kept(tmp_path):
    members = [(f"{n}.{name}", RED) for n in range(3) for name in ("png", "cls", "seg.png")]
    rows = read(tmp_path, *members)
    notices = [(row.source, row.detail.partition(",")[0]) for row in rows if isinstance(row, Notice)]
    assert (
        notices == [("mine/cc-000.tar", "files .cls are not read"), ("mine/cc-000.tar", "files .seg.png are not read")]
        and len(candidates(rows)) == 3
        and not rejected_rows(rows)
    )


def test_json_that_python_does_not_take_costs_its_sample_alone(tmp_path):
    rows = read(tmp_path, ("0.png", RED), ("0.json", "[" * 100_000), ("1.png", RED), ("1.json", '{"n": %s}' % ("9" * 5000)), ("2.png", RED))
    assert [reason for _, _, reason in rejected_rows(rows)] == ["bad JSON"] * 2 and candidates(rows) == ["cc-000/2.image"]


def test_what_is_hidden_is_left_out(tmp_path):
    assert candidates(read(tmp_path, ("._0.png", b"x"), (".cache/0.png", RED), ("./0.png", RED))) == ["cc-000/0.image"]


def test_a_picture_that_is_too_large_is_rejected_and_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "LARGEST_FILE", 200)
    assert rejected_rows(read(tmp_path, ("0.png", bytes(201)), ("1.png", RED))) == [("mine/cc-000.tar", 1, "bad row")]


@pytest.mark.parametrize("cut", [0, 100, 512, 700, 1536, 2048, 2500])
@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_that_is_cut_off_is_refused(tmp_path, cut, packed):
    whole = tar(("0.png", RED), ("1.png", bytes(600)), ("2.txt", "x"))
    content = gzip.compress(whole, 0)[: cut + 10] if packed else whole[:cut]
    with pytest.raises(Refused, match=r"mine/cc\.tar\S* (cannot be read as a tar|cannot be unpacked|ends within the tar)"):
        rows_of(tars, write_files(tmp_path, {f"cc.tar{'.gz' * packed}": content}), name="mine")


def test_garbage_in_the_midst_of_a_tar_is_refused(tmp_path):
    whole = bytearray(tar(("0.png", RED), ("1.png", RED)))
    whole[1024:1100] = b"x" * 76
    with pytest.raises(Refused, match="ends within the tar, after member 1"):
        rows_of(tars, write_files(tmp_path, {"cc.tar": bytes(whole)}))


def test_it_is_detected_by_its_tars(tmp_path):
    assert tars.detect(
        SourceFiles(str(write_files(tmp_path / "yes", {"a-000.tar": tar(("0.png", RED)), "a-000.parquet": b"of img2dataset"})))
    )
    assert not tars.detect(SourceFiles(str(write_files(tmp_path / "no", {"0.png": RED, "captions.csv": "file,caption\n"}))))
    assert not tars.detect(SourceFiles(str(write_files(tmp_path / "packed", {"query.jsonl": [], "pictures.tar": b""}))))


def test_what_is_written_is_read_again(tmp_path):
    rows = rows_of(
        tars,
        write_files(
            tmp_path / "in",
            {
                "a-train.tar": tar(("x.0.png", RED), ("y.png", BLUE), ("y.txt", "a disc"), ("y.json", {"caption": "another"})),
                "b-test.tar.gz": gzip.compress(tar(("y.jpg", BLUE), ("y.json", {"id": "ü/1.x", "label": ["star"]}))),
                "c-val.tar": tar(("y.jpg", BLUE), ("y.txt", "a disc")),
            },
        ),
    )
    tars.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
    again = rows_of(tars, tmp_path / "out")
    rows = [row for row in rows if not isinstance(row, (RejectedRow, Notice))]
    assert meaning(again) == meaning(rows) and len(again) == len(rows)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{name}-000000.tar" for name in ("test", "train", "validation")]


def test_tars_that_are_written_have_a_caption_that_others_find_and_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "PER_TAR", 2)
    rows = read(tmp_path / "in", *(member for n in range(5) for member in ((f"{n}.png", picture(n)), (f"{n}.txt", f"shade {n}"))))
    tars.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
    with tarfile.open(tmp_path / "out" / "train-000002.tar") as last:
        assert last.getnames() == ["000000000.png", "000000000.json", "000000000.txt"]
        assert last.extractfile("000000000.txt").read() == b"shade 4" and last.extractfile("000000000.png").read() == picture(4)
    assert meaning(rows_of(tars, tmp_path / "out")) == meaning(rows)


def test_a_caption_that_is_empty_is_rejected_and_its_picture_is_a_candidate(tmp_path):
    members = [("1.png", RED), ("1.txt", ""), ("2.png", RED), ("2.json", {"caption": " "}), ("3.png", RED), ("3.json", {"caption": None})]
    rows = read(tmp_path, *members, ("4.png", RED), ("4.txt", "\n"), ("4.json", {"caption": "one"}))
    assert rejected_rows(rows) == [("mine/cc-000.tar", 1, "empty side"), ("mine/cc-000.tar", 3, "empty side")]
    assert candidates(rows) == [f"cc-000/{n}.image" for n in (1, 2, 3, 4)]
    assert [row.item.text for row in rows if isinstance(row, Query) and row.item.text] == ["one"]


@pytest.mark.parametrize("name", ["cc.tar", "cc.tar.gz"])
def test_a_file_of_several_tars_is_unreadable_after_the_first(tmp_path, name):
    whole = [tar((f"{n}.png", RED), (f"{n + 1}.png", RED)) for n in range(2)]
    content = b"".join(map(gzip.compress, whole)) if name.endswith(".gz") else b"".join(whole)
    rows = tars.read(SourceFiles(str(write_files(tmp_path, {name: content})), "mine"), Shard(name))
    assert candidates([next(rows)]) == ["cc" + name[2:-3] * name.endswith(".gz") + "/0.image"]
    with pytest.raises(Unreadable, match=rf"^mine/{name} continues after the end of its tar, after member 2; give each") as refused:
        list(rows)
    assert refused.value.line == 3


def test_endings_may_be_short_and_in_capitals(tmp_path):
    one = tar(("0.png", RED))
    rows = rows_of(tars, write_files(tmp_path, {"a.tgz": gzip.compress(one), "b.TAR": one, "c.Tar.GZ": gzip.compress(one)}))
    assert candidates(rows) == ["a.tgz/0.image", "b/0.image", "c.Tar/0.image"]


@pytest.mark.parametrize("caption", ["\ufeffa star", "\ufeff\ufeff a star", " \ufeffa star"])
def test_a_caption_that_begins_with_a_mark_of_order_is_one_caption(tmp_path, caption):
    rows = read(tmp_path / "in", ("0.png", RED), ("0.json", {"caption": caption}), ("0.txt", caption))
    assert [row.item.text for row in rows if isinstance(row, Query) and row.item.text] == [caption]
    tars.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
    assert meaning(rows_of(tars, tmp_path / "out")) == meaning(rows)


def test_captions_are_read_together_with_their_pictures(tmp_path):
    folder = write_files(tmp_path, {"cc-000.tar": tar(("1.png", RED), ("1.txt", "one"), ("2.jpg", BLUE))})
    rows = rows_of(tars, folder, captions="together")
    assert [(row.item.id, row.item.text, row.item.images) for row in rows] == [
        ("cc-000/1.image", "one", (RED,)),
        ("cc-000/2.image", "", (BLUE,)),
    ]
