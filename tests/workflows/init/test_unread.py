"""What a run would not read is named with the reason."""

from mirepoix.workflows.init.survey import survey
from tests.components.ingestion.formats.format_cases import picture, write_files


def shown(count):
    return {f"p{number}.png": picture(number) for number in range(count)}


def test_what_would_not_be_read_is_named(tmp_path):
    files = {
        "captions.csv": "file,caption\np0.png,a view of the lake\n",
        "other.csv": "Datei,Satz\np1.png,der Blick auf den See\n",
        "captions.txt": "image,caption\np2.png,a view of it\n",
        "list.xlsx": "x",
    }
    found = survey(write_files(tmp_path, {**shown(3), **files}))
    assert [table.file for table in found.tables] == ["captions.csv"]
    assert found.unread == (
        "other.csv, which has no column file, caption",
        "captions.txt, which looks like a table of captions: call it captions.csv",
        "list.xlsx, a spreadsheet: save it as CSV",
    )


def test_a_first_line_of_data_is_named(tmp_path):
    rows = "".join(f"p{number}.png;a view of number {number}\n" for number in range(3))
    found = survey(write_files(tmp_path, {**shown(3), "list.csv": rows}))
    assert found.hints == ("list.csv: its first line has 'p0.png', which looks like data; give it a first line of column names",)


def test_captions_beside_pictures_that_a_table_of_splits_leaves_out_are_named(tmp_path):
    table = "file,caption,split\np0.png,a view of the lake,test\np1.png,a view of it,train\n"
    found = survey(write_files(tmp_path, {**shown(3), "captions.csv": table, "p2.txt": "a third view"}))
    assert found.sidecars == {} and found.unread == (
        "p2.txt, which are captions beside pictures: the format folder reads these, and no split, id or query; write folder+PATH for it",
    )


def test_links_to_folders_and_hidden_folders_are_told(tmp_path):
    write_files(tmp_path / "elsewhere", shown(2))
    home = write_files(tmp_path / "mine", {**shown(3), ".cache/p9.png": picture(9), "trip/.thumbs/p8.png": picture(8)})
    (home / "trip" / "flags").symlink_to(tmp_path / "elsewhere")
    found = survey(home)
    assert found.pictures.count == 5 and found.hints == (
        "trip/flags: links to folders, which are followed; what is there is read as if it were here",
        ".cache, trip/.thumbs: hidden folders, which are not read",
    )
