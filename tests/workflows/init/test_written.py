"""The file is written whole or not at all."""

import os

import pytest

from mirepoix.models.errors import Refused
from mirepoix.workflows.init.written import next_commands, refuse_present, write


def test_a_file_that_appeared_meanwhile_is_not_written_over(tmp_path, monkeypatch):
    target, link = tmp_path / "m.yaml", os.link

    def late(source, destination):
        target.write_text("of another")
        return link(source, destination)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(Refused, match="is there already"):
        write("mine", target, force=False)
    assert target.read_text() == "of another" and [path.name for path in tmp_path.iterdir()] == ["m.yaml"]


def test_force_replaces_it(tmp_path):
    write("one", tmp_path / "m.yaml", force=False)
    write("two", tmp_path / "m.yaml", force=True)
    assert (tmp_path / "m.yaml").read_text() == "two" and [path.name for path in tmp_path.iterdir()] == ["m.yaml"]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"cannot be written \(No such file or directory\); give another place as --output"):
        write("mine", tmp_path / "gone" / "m.yaml", force=False)


def test_the_next_commands_name_the_file_and_are_in_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = next_commands(tmp_path / "m.yaml")
    assert lines[0].startswith(f"mirepoix run {tmp_path}/m.yaml --plan ")
    assert len({line.rindex("  ") for line in lines}) == 1


def test_an_output_whose_name_is_not_utf8_is_refused_in_one_line(tmp_path):
    with pytest.raises(Refused, match=r"^--output is '.*m\\udcfc\.yaml', which is not UTF-8; give another name as --output FILE\.yaml$"):
        refuse_present(tmp_path / "m\udcfc.yaml", force=False)
