"""A release is made of parts that belong together, and contains golden vectors to verify it."""

import json
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.pairs import pairs
from mirepoix.components.pairs.instructions import INSTRUCTIONS
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.components.publishing import release
from mirepoix.components.publishing.release_config import ReleaseConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import table_to_items
from mirepoix.serving.golden import GOLDEN
from mirepoix.serving.release import open_release
from mirepoix.serving.store import read_manifest
from tests.components.fixtures import context, made, write_corpus


@pytest.fixture
def parts(untrained, indexed, curated, paired):
    made = {"encoder": untrained, "index": indexed, "curate": curated, "pairs": paired}
    return {name: part.folder for name, part in made.items()}


def test_it_verifies_itself_wherever_it_is_opened(released, tmp_path):
    moved = shutil.copytree(released.folder, tmp_path / "moved")
    opened = open_release(moved)
    assert opened.version == open_release(released.folder).version
    assert opened.verify(opened.open_encoder()) > 0.9999


def test_it_names_the_encoder_that_made_its_index(released, untrained):
    opened = open_release(released.folder)
    assert opened.encoder == read_manifest(untrained.folder).digest == opened.open_index().description.encoder
    assert opened.name == ReleaseConfig().name and opened.widths == (opened.open_encoder().dimension,)


def test_every_candidate_can_be_shown(released, curated):
    documents = open_release(released.folder).open_documents()
    shown = [documents[position] for position in range(len(documents))]
    assert {(document.id, document.text, document.modality, document.pictured) for document in shown} == {
        (item.id, item.text, item.modality, bool(item.images)) for item in table_to_items(read_part(curated.folder, "corpus"))
    }


def test_queries_are_served_with_the_first_wording_of_each_task(released):
    assert open_release(released.folder).instructions == {task: wordings[0] for task, wordings in INSTRUCTIONS.items()}


@pytest.mark.parametrize("without", [0.0, 1.0])
def test_queries_are_served_with_the_instructions_of_the_pairs_or_with_none(parts, curated, tmp_path, without):
    """The source's own wording before ours; and none, where no query was trained with one."""
    corpus = shutil.copytree(curated.folder, tmp_path / "corpus")
    write_corpus(tmp_path / "more", prompts=[{"task": "t->i", "wording": "The source's words.", "source": ""}])
    shutil.rmtree(corpus / "prompts", ignore_errors=True)
    (tmp_path / "more/prompts").rename(corpus / "prompts")
    paired = made(tmp_path / "pairs", pairs.work, PairsConfig(without_instruction=without), curate=corpus)
    stage_context = context(tmp_path / "out")
    release.work(stage_context, ReleaseConfig(), **parts | {"pairs": paired.folder})
    ours = {task: wordings[0] for task, wordings in INSTRUCTIONS.items()}
    served = json.loads((stage_context.folder / "release.json").read_text())["instructions"]
    assert served == ({} if without == 1 else ours | {"t->i": "The source's words."})


def test_its_golden_vectors_are_those_of_the_embedding(released, embedded):
    assert (released.folder / GOLDEN).read_bytes() == (embedded.folder / GOLDEN).read_bytes()


def test_assembling_it_imports_no_encoder(parts, tmp_path):
    code = (
        "import sys; from pathlib import Path; from mirepoix.components.publishing import release; "
        "from mirepoix.components.publishing.release_config import ReleaseConfig; from mirepoix.components.stage import Context; "
        f"release.work(Context(Path({str(tmp_path)!r}), '', lambda progress: None, 0), ReleaseConfig(), "
        f"**{{name: Path(part) for name, part in { {name: str(part) for name, part in parts.items()}!r}.items()}}); "
        "print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    assert (tmp_path / "release.json").is_file()


def test_rows_are_accounted_for(released, curated):
    documents = read_part(curated.folder, "corpus", ["id"]).num_rows
    assert released.outcome.rows.read == released.outcome.rows.written == documents
    assert released.outcome.metrics == {"documents": documents, "golden": 12}


def test_the_same_parts_give_the_same_version_and_another_name_another(released, parts, tmp_path):
    versions = []
    for name in ("mirepoix", "sofrito"):
        stage_context = context(tmp_path / name)
        release.work(stage_context, ReleaseConfig(name=name), **parts)
        versions.append(json.loads((stage_context.folder / "release.json").read_text())["version"])
    assert versions[0] == open_release(released.folder).version != versions[1]


def test_an_index_of_another_encoder_is_refused(parts, untrained, tmp_path):
    other = shutil.copytree(untrained.folder, tmp_path / "other")
    (other / "mirepoix.json").write_text((other / "mirepoix.json").read_text().replace("2048", "1024"))
    with pytest.raises(Refused, match="embed and index the corpus with this encoder"):
        release.work(context(tmp_path / "out"), ReleaseConfig(), **parts | {"encoder": other})


def test_a_corpus_that_lacks_what_was_indexed_is_refused(parts, curated, tmp_path):
    part = shutil.copytree(curated.folder, tmp_path / "part")
    file = part / "corpus" / "part-00000.parquet"
    pq.write_table(pq.read_table(file).slice(3), file)
    with pytest.raises(Refused, match="3 indexed items, such as"):
        release.work(context(tmp_path / "out"), ReleaseConfig(), **parts | {"curate": part})
