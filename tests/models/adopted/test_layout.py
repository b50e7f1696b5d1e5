"""What a folder says about itself, and the refusal of one that is not a dense encoder."""

import json
import re

import pytest

from mirepoix.models.adopted.adopted import Adopted
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.adopted.layout import read_layout
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from tests.models.adopted.written import amend

BOTH = Modality.TEXT | Modality.IMAGE
LISTED = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def test_a_folder_says_what_it_reads_and_how(layout):
    found = read_layout(layout("clip in a root"))
    assert (found.opened_by, found.family, found.place) == ("transformers", "clip", "")
    assert (found.reads, found.together, found.towers, found.width) == (BOTH, False, ("text", "vision"), 64)
    assert found.prompts == {"query": "a picture of ", "document": ""}
    found = read_layout(layout("clip in 0_CLIPModel"))
    assert (found.opened_by, found.place, found.reads) == ("transformers", "0_CLIPModel", BOTH)
    found = read_layout(layout("bert, as it was saved in 2022"))
    assert (found.opened_by, found.family, found.reads, found.towers) == ("sentence-transformers", "bert", Modality.TEXT, ("text",))
    assert (found.prompts, found.max_length) == ({"query": "query: ", "passage": "passage: "}, 24)


def test_a_model_that_reads_conversations_reads_items_of_several_modalities_as_one(tmp_path):
    amend(tmp_path / "config.json", model_type="qwen3_vl", vision_config={}, text_config={})
    (tmp_path / "modules.json").write_text(json.dumps(LISTED))
    way = {"method": "forward", "method_output_name": "last_hidden_state"}
    amend(tmp_path / "sentence_bert_config.json", modality_config={"text": way, "image": way, "video": way, "message": way})
    found = read_layout(tmp_path)
    assert (found.reads, found.together) == (BOTH | Modality.VIDEO, True)
    assert (found.opened_by, found.towers) == ("sentence-transformers", ("text", "vision"))


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, r"holds no model \(it is empty\); give the folder of a model: modules\.json or config\.json, weights"),
        ({"notes.txt": "x"}, r"holds no model \(notes\.txt\); give the folder"),
        (
            {"mire_epoch_9.pth": "x"},
            r"holds no config\.json, only weights as a pickle \(mire_epoch_9\.pth\), which says nothing of the model",
        ),
        ({"config.json": {"model_type": "bert", "architectures": ["BertModel"]}}, r"is a BertModel \(bert\), and nothing in it says how a"),
        ({"config.json": {"model_type": "vit", "architectures": ["ViTForImageClassification"]}}, r"is a ViTForImageClassification \(vit\)"),
        ({"config.json": "{"}, r"config\.json cannot be read \(.*\); give a whole model folder"),
        ({"modules.json": []}, r"modules\.json lists no modules; give a whole sentence-transformers folder"),
    ],
)
def test_a_folder_without_a_dense_encoder_is_refused_with_what_it_holds(files, why, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(Refused, match=why):
        read_layout(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(
        Refused, match=rf"^backbone folder {re.escape(str(tmp_path))}/none is not there; give an existing folder, or a hub id$"
    ):
        AdoptedConfig().traits({"model": Checkpoint(tmp_path / "none")})


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("CrossEncoder", "a reranker"),
        ("SparseEncoder", "a sparse encoder"),
        ("MultiVectorEncoder", "a late-interaction encoder"),
        ("ColBERT", "a late-interaction encoder"),
    ],
)
def test_a_model_of_another_task_is_refused_as_that(kind, what, own):
    folder = own("bert, mean")
    amend(folder / "config_sentence_transformers.json", model_type=kind)
    with pytest.raises(Refused, match=rf"is {what} \(model_type {kind} in config_sentence_transformers\.json\); only dense encoders"):
        read_layout(folder)


def test_vectors_that_are_compared_by_their_length_are_refused_unless_they_may_be_compared_by_angle(own):
    folder = own("bert with a dense layer")
    amend(folder / "config_sentence_transformers.json", similarity_fn_name="dot")
    with pytest.raises(Refused, match=r"compares its vectors by dot .* backbone\.ignore=\[similarity_fn_name\]$"):
        read_layout(folder)
    assert read_layout(folder, ["similarity_fn_name"]).opened_by == "sentence-transformers"
    folder = own_normalised(folder)
    assert read_layout(folder).opened_by == "sentence-transformers"
    amend(
        folder / "config_sentence_transformers.json", similarity_fn_name="manhattan"
    )  # ranks otherwise than the angle, also of unit vectors
    with pytest.raises(Refused, match="compares its vectors by manhattan"):
        read_layout(folder)


def own_normalised(folder):
    """The folder with a normalisation behind its modules: then the product of vectors is their angle."""
    listed = json.loads((folder / "modules.json").read_text())
    listed.append({"idx": len(listed), "name": "n", "path": "9_Normalize", "type": "sentence_transformers.models.Normalize"})
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


@pytest.mark.parametrize(
    ("setting", "value"),
    [("processing_kwargs", {"text": {"padding": "max_length", "max_length": 9}}), ("do_lower_case", True)],
)
def test_a_setting_that_transformers_alone_does_not_obey_leaves_the_folder_to_the_library(setting, value, own):
    folder = own("clip in a root")
    amend(folder / "sentence_bert_config.json", **{setting: value})
    assert read_layout(folder).opened_by == "sentence-transformers"


@pytest.mark.parametrize("path", [None, 5, "../outside", "/etc", "1_Pooling/../../x", "C:\\x", "..\\x"])
def test_a_module_outside_its_folder_is_refused(path, own):
    folder = own("clip in a root")
    listed = json.loads((folder / "modules.json").read_text())
    listed[-1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(Refused, match=r"modules\.json names a module outside its folder \(.*\); give a folder as the library saved it$"):
        read_layout(folder)


@pytest.mark.parametrize("route", ["/tmp/victim", "../x", "a/b", "."])
def test_a_route_that_would_be_saved_outside_its_folder_is_refused(route, own):
    folder = own("routed")
    routes = json.loads((folder / "router_config.json").read_text())
    structure = {**routes["structure"], route: next(iter(routes["structure"].values()))}
    amend(folder / "router_config.json", structure=structure)
    with pytest.raises(Refused, match=r"router_config\.json has the route .*, which is no name of a folder; give a folder as"):
        read_layout(folder)


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_xlnet_config.json"])
@pytest.mark.parametrize("field", ["model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_kwargs"])
def test_a_folder_may_not_say_how_weights_are_loaded(name, field, own):
    folder = own("bert, mean")
    amend(folder / name, **{field: {"attn_implementation": "eager"}})
    read_layout(folder)
    amend(folder / name, **{field: {"weights_only": False}})
    with pytest.raises(Refused, match=rf"{name} sets how weights are loaded \({field}: weights_only\), which a folder may not; take that"):
        read_layout(folder)
    amend(folder / name, **{field: {"attn_implementation": "some/kernel"}})
    with pytest.raises(Refused, match=r"names an attention of the hub \(some/kernel\), which is code; take that out"):
        read_layout(folder)


@pytest.mark.parametrize("name", ["config.json", "config_sentence_transformers.json", "sentence_bert_config.json"])
def test_a_file_of_another_form_is_refused_by_its_name(name, own):
    folder = own("clip in a root")
    (folder / name).write_text("[1]")
    with pytest.raises(Refused, match=rf"{name} holds a list and no fields; give a whole model folder$"):
        read_layout(folder)


def test_prompts_that_are_null_are_none(own):
    folder = own("clip in a root")
    amend(folder / "config_sentence_transformers.json", prompts=None)
    assert read_layout(folder).prompts == {}


def test_transformers_own_class_is_taken_where_the_folders_is_ignored(own):
    folder = own("bert, mean")
    amend(folder / "config.json", auto_map={"AutoModel": "custom.Model"})
    assert read_layout(folder).custom_code == ("auto_map in config.json",)
    assert read_layout(folder, ["auto_map"]).custom_code == ()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "processor_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("of", ["clip", "clip in a root", "bert, mean"])
def test_a_reader_of_its_own_is_code_of_its_own(name, of, own):
    folder = own(of)
    amend(folder / name, auto_map={"AutoTokenizer": ["custom.Tokenizer", None]})
    assert read_layout(folder).custom_code == (f"auto_map in {name}",)


def test_a_route_of_its_own_class_is_code_of_its_own(own):
    folder = own("routed")
    routes = json.loads((folder / "router_config.json").read_text())
    first = next(iter(routes["types"]))
    amend(folder / "router_config.json", types=routes["types"] | {first: "custom.Static"})
    assert read_layout(folder).custom_code == ("custom.Static",)


@pytest.mark.parametrize("where", ["config.json", "modules.json"])
def test_a_folder_with_code_of_its_own_is_refused_before_anything_of_it_runs(where, own):
    folder = own("bert, mean")
    (folder / "custom.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    if where == "config.json":
        amend(folder / "config.json", auto_map={"AutoModel": "custom.Model"})
    else:
        listed = json.loads((folder / "modules.json").read_text())
        listed[1]["type"] = "custom.Pooling"
        (folder / "modules.json").write_text(json.dumps(listed))
    for open_it in (AdoptedConfig().traits, lambda checkpoints: Adopted.build(checkpoints, AdoptedConfig())):
        with pytest.raises(Refused, match=r"needs code of its own \(.*\), and code from a checkpoint is not run unless you say so"):
            open_it({"model": Checkpoint(folder)})
    assert not (folder / "ran").exists()
