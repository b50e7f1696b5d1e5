"""Exports of adopted models: their encoder is saved in their own layout, so it is copied, with the prompts that training used added."""

from pathlib import Path
from typing import Any

from mirepoix.components.publishing import usage_examples
from mirepoix.components.publishing.model_card import Layout as CardLayout
from mirepoix.components.publishing.sentence_transformers import amend_json, write_json, write_modules
from mirepoix.models.adopted.layout import FIRST, MODULES, PROMPTS, TWO_TOWERS, Layout, read_layout
from mirepoix.models.adopted.two_towers import PADDED
from mirepoix.models.encoder import Encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.serving.release import Release

TRUSTED = "The folder has code of its own, which its model needs: read it before you give `trust_remote_code=True`."
APART = "A text and a picture are encoded apart; the release adds the vectors of an item of both before it normalises them (`several`)."
FETCHED = (
    "sentence-transformers reads a text that is the address or the path of a picture as that picture, and fetches it; the release reads it "
    'as a text, as does `{"text": TEXT}` here.'
)
REFUSED = "The release refuses an item of text and picture together; the example adds the vectors of both before it normalises them."


def plain(encoder: Encoder, draft: Path) -> CardLayout:
    """What a folder that was copied needs to be opened by transformers alone."""
    layout = two_towers(draft)
    place = f"/{layout.place}" if layout.place else ""
    return CardLayout(
        library="transformers",
        needs="torch transformers pillow",
        opened=f'AutoModel.from_pretrained("FOLDER{place}")',
        usage=example(encoder, place),
        limits=limits(encoder),
    )


def two_towers(folder: Path) -> Layout:
    """The layout of a saved encoder that transformers alone opens; refused where sentence-transformers modules make the vectors."""
    layout = read_layout(folder)
    if layout.opened_by != "transformers":
        raise Refused(
            "the release is of a model whose vectors its sentence-transformers modules make, so transformers alone does not give them; "
            "export it --to sentence-transformers"
        )
    return layout


def inner(base: str, place: str) -> str:
    """The transformers model in a base that is a sentence-transformers folder; refused of a hub id, in which an adapter names no folder."""
    if not Path(base).expanduser().is_dir():
        raise Refused(
            f"the model is in the folder {place} of {base}, and an adapter names a whole base and no folder in it; fetch it and give the "
            "folder as --base, or export it --to hf"
        )
    folder = Path(base).expanduser()
    return str(folder / place if (folder / place).is_dir() else folder)


def example(encoder: Encoder, place: str = "", base: str | None = None) -> str:
    """The example of a two-tower model in a folder of the export, or with PEFT over `base`."""
    own: Any = encoder
    reader = own.collator.reader
    return usage_examples.two_towers(
        reader.length, reader.padding == "max_length", own.collator.prompts, own.config.instructed, place, base
    )


def limits(encoder: Encoder) -> tuple[str, ...]:
    """What the example of a two-tower model does that its release does not."""
    config: Any = encoder.config
    return () if config.several == "sum" else (REFUSED,)


def sentence(release: Release, encoder: Encoder, draft: Path) -> CardLayout:
    """Completes a folder that was copied, without our description, so that sentence-transformers opens it."""
    layout = read_layout(draft)
    own: Any = encoder
    config = own.config
    if layout.opened_by == "transformers":
        if not (draft / MODULES).is_file():
            _write_two_towers(draft, layout.family)
        _write_length(draft / layout.place, own.collator.reader.length, layout.family in PADDED)
    worded = {task or "query": config.instructed.format(instruction=words.strip()) for task, words in release.instructions.items() if words}
    # `encode_query` and `encode_document` take the prompts of these two names, however those of the release are named.
    prompts = {**layout.prompts, **own.collator.prompts, **worded}
    amend_json(draft / PROMPTS, prompts=prompts, similarity_fn_name="cosine", model_type="SentenceTransformer")
    if config.width is not None:
        amend_json(draft / PROMPTS, truncate_dim=config.width)
    pictures = bool(encoder.reads & Modality.IMAGE)
    trusted = encoder.runs_custom_code
    return CardLayout(
        library="sentence-transformers",
        task="sentence-similarity",
        tags=("sentence-transformers", "sentence-similarity"),
        needs='"sentence-transformers>=6" pillow' + " torchvision" * bool(encoder.reads & Modality.VIDEO),
        opened=f'SentenceTransformer("FOLDER"{", trust_remote_code=True" * trusted})',
        usage=usage_examples.sentence_adopted(pictures, trusted),
        limits=tuple([TRUSTED] * trusted + [FETCHED] * pictures + [APART] * (pictures and config.several == "sum")),
    )


def _write_two_towers(draft: Path, family: str) -> None:
    """The modules of a two-tower model."""
    assert family in TWO_TOWERS, family
    write_modules(draft, "Normalize")
    (draft / "1_Normalize").mkdir()
    methods = {name: {"method": f"get_{name}_features", "method_output_name": "pooler_output"} for name in ("text", "image")}
    settings = {"transformer_task": "feature-extraction", "modality_config": methods, "module_output_name": "sentence_embedding"}
    write_json(draft / FIRST[0], settings)


def _write_length(folder: Path, length: int, padded: bool) -> None:
    """The length that texts are cut to or, of families that are padded to it, padded to, which the library does not know of the family."""
    whole = {"processing_kwargs": {"text": {"padding": "max_length", "truncation": True, "max_length": length}}}
    amend_json(
        folder / next((name for name in FIRST if (folder / name).is_file()), FIRST[0]), max_seq_length=length, **whole if padded else {}
    )
