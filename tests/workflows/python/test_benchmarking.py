"""`mirepoix.mteb_encoder` takes what `mirepoix.open` takes and returns; test_mteb_encoder.py has mteb run it."""

import pytest

import mirepoix
from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.workflows.python import benchmarking
from tests.serving.conftest import encoder_folder, parts, release_folder

__all__ = ["encoder_folder", "parts", "release_folder"]


@pytest.fixture
def with_mteb(monkeypatch):
    """As if mteb were installed, which is beside the environment; it is needed once tasks are run."""
    monkeypatch.setattr(benchmarking, "find_spec", lambda _: object())


def test_without_mteb_it_is_refused_with_what_to_install(release_folder, monkeypatch):
    monkeypatch.setattr(benchmarking, "find_spec", lambda _: None)
    with pytest.raises(Refused, match=r"^mteb is not installed; install it: pip install 'mirepoix\[mteb\]'$"):
        mirepoix.mteb_encoder(release_folder)


def test_a_release_an_encoder_and_what_was_opened_are_taken(with_mteb, release_folder, encoder_folder):
    opened = mirepoix.open(release_folder)
    assert repr(mirepoix.mteb_encoder(release_folder, device="cpu")) == "<encoder for mteb: tiny, unite, on cpu>"
    assert mirepoix.mteb_encoder(opened).encoder is opened.encoder
    assert mirepoix.mteb_encoder(opened, name="own/name").name == "own/name"
    assert mirepoix.mteb_encoder(encoder_folder).name == encoder_folder.name
    encoder = load_encoder(encoder_folder)
    assert mirepoix.mteb_encoder(encoder).encoder is encoder and mirepoix.mteb_encoder(encoder).name == "unite"


def test_what_is_neither_is_refused(with_mteb, release_folder):
    with pytest.raises(Refused, match=r"^mirepoix\.mteb_encoder is given the type int; give what mirepoix\.open takes, or returned$"):
        mirepoix.mteb_encoder(7)
    with pytest.raises(Refused, match=r"^device: that is an option of opening, and what is given is open; leave it out$"):
        mirepoix.mteb_encoder(mirepoix.open(release_folder), device="cpu")
    with pytest.raises(Refused, match=r"^/nowhere is no folder here"):
        mirepoix.mteb_encoder("/nowhere")
