"""The file is written whole or not at all."""

import os
from pathlib import Path

import pytest

from mirepoix.models.errors import Refused
from mirepoix.workflows.init.machine import Machine
from mirepoix.workflows.init.pictures import Pictures
from mirepoix.workflows.init.proposal import propose
from mirepoix.workflows.init.survey import Contents, Survey
from mirepoix.workflows.init.written import next_commands, refuse_present, write, written


def test_a_file_that_appeared_meanwhile_is_not_written_over(tmp_path, monkeypatch):
    target, link = tmp_path / "m.yaml", os.link

    def late(source, destination):
        target.write_text("of another")
        return link(source, destination)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(Refused, match="is there already"):
        write("mine", target, force=False)
    assert target.read_text() == "of another" and [path.name for path in tmp_path.iterdir()] == ["m.yaml"]


@pytest.mark.parametrize("recipe", ["finetune", "search"])
def test_the_comments_at_captions_are_no_wider_than_the_others(recipe):
    contents = Contents({"i": 500, "t": 500}, {"train": {"t->i": 500, "i->t": 500}}, ("a dog on the beach with two people",))
    found, machine = Survey("mine", Pictures(500, looked=1), "folder", (), (), {}, contents, 500), Machine(4, 1e11, 16 * 10**9, 10**12)
    lines = written(found, propose(found, machine, recipe), machine, Path("m.yaml")).splitlines()
    after = lines[lines.index(next(line for line in lines if line.startswith("  captions: apart"))) + 1 :]
    comments = [line for line in after[:2] if line.startswith("  # ")]
    assert len(comments) == {"finetune": 2, "search": 1}[recipe] and max(map(len, comments)) <= 118


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
