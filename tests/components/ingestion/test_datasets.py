"""Some data sets of a benchmark alone are read, none of the others is opened, and what a board needs and is not there is named at once."""

import re
import shutil

import pytest

from mirepoix.components.ingestion import sources
from mirepoix.components.ingestion.formats.rows import Candidate, Member, Query
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.components.ingestion.readers import FORMAT_MODULES, open_sources
from mirepoix.components.ingestion.sources_config import OF_DATASETS, SourcesConfig
from mirepoix.models.errors import Refused
from tests.components.fixtures import made
from tests.components.ingestion.formats import miniatures
from tests.components.ingestion.formats.format_cases import write_files

FORMATS = {
    "mbeir": "mbeir",
    "mmeb": "mmeb",
    "mmeb_v2": "mmeb-v2",
    "webqa": "webqa",
    "okvqa": "okvqa",
    "okvqa_wikipedia": "okvqa",
    "remuq": "remuq",
    "evqa": "m2kr",
    "vidore": "vidore",
}


def read(folder, *names, form):
    """The rows of a source of which some data sets are read, and the files that were opened."""
    (source,) = open_sources([f"{form}+{folder}"], only_splits=("test",), only_datasets=names)
    return [row for shard in source.shards for row in FORMAT_MODULES[form].read(source.tree, shard)]


def queries(rows):
    return {(row.dataset, row.pool) for row in rows if isinstance(row, Query)}


@pytest.fixture
def opened(monkeypatch):
    """The files that are opened from now on."""
    found = set()
    plain = SourceFiles.open
    monkeypatch.setattr(SourceFiles, "open", lambda tree, file: found.add(file) or plain(tree, file))
    return found


@pytest.mark.parametrize(
    ("name", "chosen", "expected", "files"),
    [
        ("mbeir", ["mscoco"], {("mscoco", "mscoco_task0_test"), ("mscoco", "mscoco_task3_test")}, r"mscoco|instructions"),
        ("mbeir", ["webqa_task1"], {("webqa", "webqa_task1")}, r"webqa_task1|instructions"),
        ("mbeir", ["*_task8", "nights"], {("oven", "oven_task8"), ("nights", "nights_task4")}, r"oven_task8|nights|instructions"),
        ("mmeb", ["OK-VQA", "Ref*"], {("OK-VQA", ""), ("RefCOCO", "")}, r"OK-VQA|RefCOCO"),
        ("mmeb_v2", ["VisDoc", "MSR-VTT"], {(n, n) for n in ("ViDoRe_arxivqa", "VisRAG_ChartQA", "MSR-VTT")}, r"visdoc|msr-vtt"),
        ("mmeb_v2", ["ViDoRe_*"], {("ViDoRe_arxivqa", "ViDoRe_arxivqa")}, "arxivqa"),
        ("mmeb_v2", ["Image"], {(n, n) for n in ("ImageNet-1K", "OK-VQA", "MSCOCO_t2i", "RefCOCO")}, "image-query"),
        ("vidore", ["HR"], {("HR", "")}, "vidore_v3_hr"),
        ("vidore", ["esg_reports_v2", "DocVQA"], {("ESG Reports", "esg_reports_v2"), ("DocVQA", "docvqa_test_subsampled")}, "esg|docvqa"),
    ],
)
def test_the_chosen_data_sets_are_read_and_no_file_of_others_is_opened(tmp_path, opened, name, chosen, expected, files):
    folder = getattr(miniatures, name)(tmp_path / "s")
    assert queries(read(folder, *chosen, form=FORMATS[name])) == expected
    tree = SourceFiles(str(folder))
    assert opened <= set(tree.files(rf".*({files}).*")) | set(tree.files(r".*\.(png|jpg)")) and opened


def test_of_m2kr_the_one_that_is_chosen_is_the_whole_corpus(tmp_path):
    miniatures.infoseek(miniatures.evqa(tmp_path / "s"))
    for chosen, name in (("E-VQA", "E-VQA"), ("EVQA", "E-VQA"), ("Infoseek", "InfoSeek")):
        rows = read(tmp_path / "s", chosen, form="m2kr")
        assert queries(rows) == {(name, "")} and not any(isinstance(row, Member) for row in rows)
        assert len([row for row in rows if isinstance(row, Candidate)]) == 8


def test_what_is_chosen_is_what_all_is_without_the_others(tmp_path):
    folder = miniatures.mbeir(tmp_path / "s")
    shutil.rmtree(folder / "cand_pool/global")
    every, one = read(folder, form="mbeir"), read(folder, "nights", form="mbeir")

    def of(rows):
        return [row for row in rows if isinstance(row, Candidate) and row.item.id.startswith("4:")]

    assert of(one) == of(every) and len(of(one)) == 3 == len([row for row in one if isinstance(row, Candidate)])


# Names


def test_a_name_that_matches_nothing_is_refused_with_those_that_there_are(tmp_path):
    folder = miniatures.mbeir(tmp_path / "s")
    with pytest.raises(Refused) as refusal:
        open_sources([str(folder)], only_datasets=("mscoco", "visualnews"))
    said = str(refusal.value)
    assert said.startswith("sources.only_datasets has 'visualnews', which is none of the data sets that there are; ")
    assert (
        "has fashioniq_task7, mscoco_task0, mscoco_task3, nights_task4, oven_task6, oven_task8, webqa_task1, webqa_task2, union, " in said
    )
    assert said.endswith("and others come from hf.co/datasets/TIGER-Lab/M-BEIR") and "\n" not in said
    with pytest.raises(Refused, match=r"VisRAG_ChartQA, ViDoRe_arxivqa \(or by group: Image, Video, VisDoc\), and others come from"):
        open_sources([str(miniatures.mmeb_v2(tmp_path / "v2"))], only_datasets=("visdoc",))


def test_a_format_without_data_sets_of_their_own_files_is_refused(tmp_path):
    folder = miniatures.webqa(tmp_path / "s")
    for entries in ([str(folder)], [str(miniatures.vidore(tmp_path / "v")), str(folder)]):
        with pytest.raises(
            Refused, match=r"only_datasets is for mbeir, mmeb, m2kr, vidore, mmeb-v2, and the format of .* is webqa; leave it"
        ):
            open_sources(entries, only_datasets=("webqa", "HR"))
    assert {name for name, module in FORMAT_MODULES.items() if hasattr(module, "datasets")} == set(OF_DATASETS)
    assert all(FORMAT_MODULES[name].ORIGIN for name in OF_DATASETS)


def test_of_several_sources_each_has_one_of_the_data_sets(tmp_path):
    entries = [str(miniatures.mbeir(tmp_path / "a")), str(miniatures.vidore(tmp_path / "b"))]
    with pytest.raises(Refused, match=r"is mscoco, and '.*/b' has docvqa.*, vidore_v3_hr alone; leave that source out, or name some of"):
        open_sources(entries, only_datasets=("mscoco",))
    assert len(open_sources(entries, only_datasets=("mscoco", "HR"))) == 2


def test_a_stage_reads_what_its_config_chooses_and_says_what_it_leaves(tmp_path):
    folder = miniatures.vidore(tmp_path / "s")
    found = made(tmp_path / "out", sources.work, SourcesConfig(path=(str(folder),), format="vidore", only_datasets=("*_v2",)))
    assert found.outcome.metrics["corpus"] == 6 and found.outcome.metrics["queries"] == 4
    (notice,) = found.outcome.tables["notices"]
    assert notice["detail"].endswith("the format reads no such files, or sources.only_datasets their data set")


# What is missing


@pytest.mark.parametrize(("name", "form"), FORMATS.items())
def test_without_any_of_its_files_a_benchmark_is_refused_or_lacks_a_whole_data_set(tmp_path, name, form):
    """Each file and each folder of a miniature is taken away in turn."""
    folder = getattr(miniatures, name)(tmp_path / "s")
    (full,) = open_sources([f"{form}+{folder}"], only_splits=("test",), measured=True)
    whole = full.datasets
    optional = {"imgs.lineidx.new", "mbeir_union_test_cand_pool.jsonl", "global"}  # may be missing, or are named in a note
    for path in sorted(folder.rglob("*")):
        of_one_item = path.suffix in (".png", ".jpg") or re.search("/frames/[^/]+/[^/]+/", str(path))
        if path.name in optional or of_one_item or str(path.relative_to(folder)).startswith("EVQA_data/train-"):
            continue
        path.rename(tmp_path / "aside")
        try:
            (source,) = open_sources([f"{form}+{folder}"], only_splits=("test",), measured=True)
        except Refused as refusal:
            for line in str(refusal).splitlines():
                assert line.startswith(f"'{folder}' lacks ") and f", which {form} needs; it comes from " in line, line
        else:
            assert source.shards and len(source.datasets) < len(whole), path
        (tmp_path / "aside").rename(path)


@pytest.mark.parametrize(
    ("name", "folder", "words"),
    [
        (
            "mbeir",
            "mbeir_images",
            r"the pictures of fashioniq_task7, .*, such as mbeir_images/\d+.png, .*: join and unpack it there, or give sour",
        ),
        (
            "mmeb",
            ".",
            r"the pictures of ImageNet-1K, MSCOCO_t2i, OK-VQA, RefCOCO, such as ImageNet-1K/0.png, .*images.zip at hf.co/datasets/TI",
        ),
        ("mmeb_v2", "image-tasks", r"image-tasks/ImageNet-1K/, the pictures of ImageNet-1K, OK-VQA, MSCOCO_t2i, RefCOCO, .*mmeb_v1.tar.gz"),
        (
            "evqa",
            "EVQA",
            r"the pictures of E-VQA, such as EVQA/inat/val/0.jpg, .*hf.co/datasets/BByrneLab/M2KR_Images: unpack it there, or",
        ),
    ],
)
def test_pictures_that_the_first_rows_name_and_that_are_not_there_are_named_once(tmp_path, name, folder, words):
    source = getattr(miniatures, name)(tmp_path / "s")
    elsewhere = tmp_path / "elsewhere"
    pictures = [path for path in (source / folder).rglob("*") if path.suffix in (".png", ".jpg")]
    for path in pictures:
        place = elsewhere / path.relative_to(source / ("image-tasks" if name == "mmeb_v2" else "."))
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    with pytest.raises(Refused) as refusal:
        open_sources([f"{FORMATS[name]}+{source}"], only_splits=("test",), measured=True)
    assert "\n" not in str(refusal.value)
    assert re.search(words, str(refusal.value)), refusal.value
    assert open_sources([f"{FORMATS[name]}+{source}"], images=str(elsewhere), only_splits=("test",), measured=True)


def test_what_only_a_data_set_that_is_left_out_lacks_is_not_missing(tmp_path):
    folder = miniatures.mbeir(tmp_path / "s")
    (folder / "cand_pool/local/mbeir_nights_task4_cand_pool.jsonl").unlink()
    with pytest.raises(Refused, match=r"lacks cand_pool/local/mbeir_nights_task4_cand_pool.jsonl, the candidates of nights_task4, which"):
        open_sources([str(folder)], only_splits=("test",), measured=True)
    assert open_sources([str(folder)], only_splits=("test",), only_datasets=("oven",), measured=True)
    assert open_sources([str(folder)], only_splits=("test",)), "whoever measures by no board may bring what there is"


def test_a_corpus_to_train_on_needs_nothing_that_measuring_needs(tmp_path):
    folder = write_files(
        tmp_path / "s", {"query/train/mbeir_cirr_train.jsonl": [], "cand_pool/global/mbeir_union_train_cand_pool.jsonl": []}
    )
    assert open_sources([f"mbeir+{folder}"])
