"""Any URI that pyarrow or fsspec supports is a source; one that cannot be reached is refused in one line."""

import os
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirepoix.components.ingestion.formats import flagembedding, folder
from mirepoix.components.ingestion.formats.rows import Candidate, Unreadable
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.readers import open_sources
from mirepoix.models.errors import Refused
from tests.components.ingestion.formats.format_cases import picture, rows_of, write_files

PAIR = {"query": "who ?", "pos": ["he"], "neg": []}
FILES = {"corpus/train.jsonl": [PAIR], "corpus/more/test.jsonl": [PAIR], "other/x.jsonl": [PAIR]}


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.rm("/", recursive=True)


@pytest.fixture
def server(tmp_path):
    """A web server of a folder: its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web"))) as running:
        Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def found(uri):
    """The files of a source, and the sources of its rows."""
    (source,) = open_sources((uri,))
    assert source.format == "flagembedding" and source.fingerprint()
    return source.files, {row.item.source for row in rows_of(flagembedding, uri) if isinstance(row, Candidate)}


def test_a_folder_in_memory_is_read_and_known_again_after_a_change(tmp_path, memory):
    memory.put(f"{write_files(tmp_path, FILES)}/corpus", "/corpus", recursive=True)
    assert found("memory://corpus") == (["more/test.jsonl", "train.jsonl"], {"corpus/more/test.jsonl", "corpus/train.jsonl"})
    assert found("memory://corpus/train.jsonl") == (["train.jsonl"], {"train.jsonl/train.jsonl"})
    before = SourceFiles("memory://corpus").fingerprint(["train.jsonl"])
    assert SourceFiles("memory://corpus").fingerprint(["train.jsonl"]) == before
    memory.pipe("/corpus/train.jsonl", memory.cat("/corpus/train.jsonl"))
    assert SourceFiles("memory://corpus").fingerprint(["train.jsonl"]) != before


def test_files_in_a_zip_are_read(tmp_path):
    write_files(tmp_path, FILES)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        for name in FILES:
            packed.write(tmp_path / name, name)
    at = f"::file://{tmp_path}/all.zip"
    assert found(f"zip://{at}")[0] == ["corpus/more/test.jsonl", "corpus/train.jsonl", "other/x.jsonl"]
    assert found(f"zip://corpus{at}")[0] == ["more/test.jsonl", "train.jsonl"]
    assert found(f"zip://corpus/train.jsonl{at}") == (["train.jsonl"], {"all.zip/train.jsonl"})


def test_a_web_server_gives_a_file_or_what_it_lists(tmp_path, server):
    write_files(tmp_path / "web", FILES)
    assert found(f"{server}/corpus/") == (["more/test.jsonl", "train.jsonl"], {"corpus/more/test.jsonl", "corpus/train.jsonl"})
    assert found(f"{server}/corpus/train.jsonl")[0] == ["train.jsonl"]
    tree = SourceFiles(f"{server}/corpus/")
    assert tree.sizes == {name: os.path.getsize(tmp_path / "web/corpus" / name) for name in ("more/test.jsonl", "train.jsonl")}


def test_pictures_come_from_a_server_too(tmp_path, server):
    write_files(tmp_path / "web", {"shown/a.png": picture(1), "shown/x/b.png": picture(2)})
    rows = rows_of(folder, f"{server}/shown/")
    assert [(row.item.id, row.item.images) for row in rows] == [("a.png.image", (picture(1),)), ("x/b.png.image", (picture(2),))]


def test_what_a_server_gives_only_as_a_whole_is_refused_where_parts_are_needed(tmp_path, server):
    write_files(tmp_path / "web", {"a.jsonl": [PAIR | {"neg": ["x" * 6_000_000]}, PAIR]})
    pq.write_table(pa.table({"sentence": [os.urandom(9000) for _ in range(600)]}), tmp_path / "web/a.parquet")
    with pytest.raises(Unreadable, match=r"^mine/a\.parquet cannot be read as Parquet \(The HTTP server"):
        SourceFiles(f"{server}/a.parquet", "mine").schema("a.parquet")
    tree = SourceFiles(f"{server}/a.jsonl", "mine")
    with pytest.raises(Unreadable, match=r"^mine/a\.jsonl cannot be read from byte 6000030 on \(The HTTP server.*\); download it first"):
        list(tree.lines(Shard("a.jsonl", start=6_000_030)))


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("foo://x", "Protocol not known: foo"),
        ("oci://bucket/x", "Install ocifs"),
        ("zip://::file:///no/such.zip", "No such file"),
        ("ftp://127.0.0.1:1/x", "Connection refused"),
    ],
)
def test_a_path_that_cannot_be_reached_is_refused_in_one_line(uri, words):
    with pytest.raises(Refused) as refused:
        open_sources((f"beir+{uri}",))[0].fingerprint()
    message = str(refused.value)
    assert message.startswith(f"corpus {uri!r} cannot be reached (") and words in message and "\n" not in message


@pytest.mark.parametrize("error", [RuntimeError("nobody answers\nat all"), RuntimeError(), ImportError("install it")])
def test_each_file_system_has_errors_of_its_own(memory, monkeypatch, error):
    def fail(*_, **__):
        raise error

    memory.pipe("/corpus/train.jsonl", b"{}")
    for method in ("info", "find"):
        with monkeypatch.context() as patch:
            patch.setattr(type(memory), method, fail)
            with pytest.raises(
                Refused, match=r"^corpus 'memory://corpus' cannot be reached \((nobody answers|RuntimeError|install it)\); give"
            ):
                SourceFiles("memory://corpus").files()


def test_nothing_at_a_uri_is_no_corpus(memory):
    with pytest.raises(Refused, match="there is no corpus at 'memory://nowhere'"):
        SourceFiles("memory://nowhere").files()
