"""Export of a release as a folder that other libraries open, with a model card.

hf                      the checkpoints that the encoder is built over, as transformers opens them
sentence-transformers   the same with its modules and prompts; for late interaction only the text side, in PyLate's format
peft                    the adapter that training added to the published weights
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mirepoix.components.publishing import adopted_export, sentence_transformers, usage_examples
from mirepoix.components.publishing.chat_template import CHATS, chat_template, reads_clips
from mirepoix.components.publishing.lora_adapter import adapters, write_adapter
from mirepoix.components.publishing.model_card import Layout, card, published
from mirepoix.models.adopted.two_towers import SCALES
from mirepoix.models.backbones.adapter import adapter_folder, base_of
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import open_checkpoint
from mirepoix.models.encoder import HEAD, Encoder
from mirepoix.models.encoder_config import DESCRIPTION
from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.serving.release import Release

CARD = "README.md"
CLIPS = ("univldr",)  # towers whose vectors are added
ADOPTED = ("adopted",)  # saved in a layout of their own
LATES = ("mire",)  # a vector for each token
CHECKOUT = "mirepoix is on no registry of packages: CHECKOUT is a folder that holds its source, such as a clone of its repository."
LITERAL = "Control tokens in a text, such as `<|im_end|>`, are read as such here; mirepoix reads them as plain characters."
COUNTED = (
    "Positions count tokens, as in the example (`position_ids`). Without them transformers gives pictures the positions of their grid: "
    "vectors of texts are the same then, those of pictures are not."
)
CODE = "Positions count tokens, computed by `counted.py`: the only code in this folder, and the reason for `trust_remote_code=True`."
CLEANED = (
    "Texts are not repaired here; in training they were, as OpenAI's own tokenizer of CLIP does it: "
    "`html.unescape(html.unescape(ftfy.fix_text(text))).lower()` before encoding gives the same vectors. It changes texts with HTML "
    "entities (`&amp;`), curly quotes, ligatures, full-width letters, or a broken encoding."
)
TWICE = (
    "A picture is resized twice, to whole tokens near its size and then within the processor's budget, as in training; `whole` does the "
    "first. Left out, some pictures have other numbers of tokens, and their vectors differ."
)
RESIZED = (
    "Pictures are scaled by Pillow, as in training, because of `use_fast` in sentence_bert_config.json. A transformers without that option "
    "scales with torchvision, and single numbers of a vector then differ by 1e-4 to 2e-3. Frames of clips are always scaled with "
    "torchvision; where they need scaling, the difference is about 2e-4."
)


@dataclass(frozen=True)
class ExportRequest:
    """A release to export, with the report of its run and the user's options."""

    release: Release
    encoder: Encoder
    run: Mapping[str, Any] | None  # the report of the run that made it
    base: str | None  # the checkpoint that training started from, if the user names it
    report: Callable[[str], None]


def export(
    release: Release,
    folder: Path,
    to: str,
    run: Mapping[str, Any] | None = None,
    base: str | None = None,
    report: Callable[[str], None] = print,
    trust_remote_code: bool = False,
) -> Path:
    """Writes the release into a new or empty folder, in one of `LAYOUTS`; the folder appears when it is complete."""
    if to not in LAYOUTS:
        raise Refused(f"layout {to!r} is not known; give one of {', '.join(LAYOUTS)}")
    if base is not None and to != "peft":
        raise Refused(f"a base is given, and --to {to} has the whole weights; leave it out, or export --to peft")
    encoder = release.open_encoder(trust_remote_code=trust_remote_code)
    with _drafted(folder) as draft:
        layout = LAYOUTS[to](ExportRequest(release, encoder, run, base, report), draft)
        (draft / CARD).write_text(card(release, encoder, layout, run))
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        for path in files:
            report(f"{path.relative_to(draft)}  {_size(path.stat().st_size)}")
        total = _size(sum(path.stat().st_size for path in files))
    report(f"{total} in {folder}; {CARD} has the full example of this:")
    report(f"  {layout.opened.replace('FOLDER', str(folder))}")
    return folder


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


@contextmanager
def _drafted(folder: Path) -> Iterator[Path]:
    """A temporary folder, renamed to `folder` at the end of the block and removed after an error."""
    folder = folder.expanduser().absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise Refused(f"{folder} is not empty; give a folder that is new or empty")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
            draft = Path(beside) / "draft"
            draft.mkdir()
            yield draft
            os.rename(draft, folder)
    except OSError as error:
        raise Refused(f"{folder} cannot be written ({error.strerror or error}); give a folder of yours with room for it") from error


def _hf(request: ExportRequest, draft: Path) -> Layout:
    encoder = request.encoder
    _copy_encoder(request, draft)
    if encoder.architecture in ADOPTED:
        return adopted_export.plain(encoder, draft)
    fields: dict[str, Any] = {
        "library": "transformers",
        "needs": "torch transformers pillow",
        "opened": 'AutoModel.from_pretrained("FOLDER")',
    }
    if encoder.architecture in CHATS:
        (draft / "chat_template.jinja").write_text(chat_template(encoder))
        return Layout(usage=usage_examples.chat(encoder.config, _side(encoder)), limits=_shown(encoder), **fields)
    if encoder.architecture in CLIPS:
        return Layout(usage=usage_examples.clip(encoder.config), limits=(*_cleaned(encoder), LITERAL), **fields)
    towers = " and ".join(f"`{name}/`" for name in encoder.config.CHECKPOINTS)
    limits = (
        f"{towers} are checkpoints that transformers' Auto classes open. Only mirepoix, which opens this folder as an encoder, combines "
        f"them and uses the weights in `{HEAD}`.",
        CHECKOUT,
    )
    return Layout(usage=usage_examples.ours(), limits=limits, **fields | {"needs": "-e CHECKOUT", "opened": 'load_encoder("FOLDER")'})


def _sentence_transformers(request: ExportRequest, draft: Path) -> Layout:
    encoder, instructions = request.encoder, request.release.instructions
    if encoder.architecture in ADOPTED:
        _copy_encoder(request, draft, DESCRIPTION)
        return adopted_export.sentence(request.release, encoder, draft)
    if encoder.architecture not in (*CHATS, *CLIPS, *LATES):
        raise Refused(
            f"the release is of {encoder.architecture}, and sentence-transformers has no module that combines its towers; export it --to hf"
        )
    if getattr(encoder.config, "fusion", None) == "late":
        raise Refused(
            "the release was trained with fusion=late, which encodes pictures and words separately, and sentence-transformers encodes an "
            "item at once; export it --to hf, whose example encodes them separately"
        )
    limits: tuple[str, ...]
    config: Any = encoder.config
    fields: dict[str, Any] = {
        "library": "sentence-transformers",
        "task": "sentence-similarity",
        "tags": ("sentence-transformers", "sentence-similarity"),
    }
    if encoder.architecture in LATES:
        sentence_transformers.write_late(draft, encoder, instructions)
        limits = ("This is the text side only. Pictures, and their weighting by the text, need mirepoix: export --to hf for all of it.",)
        fields |= {"needs": '"sentence-transformers>=6.2"', "opened": 'MultiVectorEncoder("FOLDER")'}
        return Layout(usage=usage_examples.sentence_late(), limits=limits, **fields)
    _copy_encoder(request, draft, DESCRIPTION)
    fields |= {"needs": '"sentence-transformers>=6" torchvision pillow', "opened": 'SentenceTransformer("FOLDER")'}
    if encoder.architecture in CLIPS:
        sentence_transformers.write_clip(draft, encoder, instructions)
        limits = (
            "A text with a picture is the sum of both vectors before normalisation, which no module computes: see `together`.",
            "The instruction of a query goes before its text; a query that is only a picture is encoded without it.",
            *_cleaned(encoder),
            LITERAL,
        )
        return Layout(usage=usage_examples.sentence_clip(), limits=limits, **fields)
    (draft / "chat_template.jinja").write_text(chat_template(encoder))
    counted = bool(_counted(encoder))
    sentence_transformers.write_chat(draft, encoder, instructions, counted)
    if counted:
        fields["opened"] = 'SentenceTransformer("FOLDER", trust_remote_code=True)'
    limits = (
        *([CODE] if counted else []),
        f"{_uncut(encoder)} `model.max_seq_length = {config.max_length}` truncates texts as in training; with pictures it cuts "
        "off the token that is pooled.",
        _clips(encoder),
        *_twice(encoder),
        RESIZED,
        LITERAL,
    )
    return Layout(usage=usage_examples.sentence_chat(config, _side(encoder), counted), limits=limits, **fields)


def _shown(encoder: Encoder) -> tuple[str, ...]:
    """The limits of the example of a multimodal language model."""
    return (*_counted(encoder), f"{_uncut(encoder)} The example reads no clips.", *_twice(encoder), LITERAL)


def _side(encoder: Encoder) -> int:
    """The side of a token of a picture, in pixels."""
    collator: Any = encoder.collator
    side: int = collator.side
    return side


def _cleaned(encoder: Encoder) -> tuple[str, ...]:
    """The note on texts that are repaired before they are read."""
    return (CLEANED,) if getattr(encoder.config, "clean_text", False) else ()


def _twice(encoder: Encoder) -> tuple[str, ...]:
    """The note on pictures that are resized twice."""
    return (TWICE,) if getattr(encoder.config, "resized_twice", False) else ()


def _uncut(encoder: Encoder) -> str:
    config: Any = encoder.config
    return f"Texts are not truncated here; in training they were, to {config.max_length} tokens of the whole prompt."


def _counted(encoder: Encoder) -> tuple[str, ...]:
    """The note on positions, where they differ from those of transformers."""
    return (COUNTED,) if getattr(encoder.config, "positions", None) == "1d" else ()


def _clips(encoder: Encoder) -> str:
    config: Any = encoder.config
    if not reads_clips(encoder) and config.min_frame_pixels is not None:
        return "Clips are refused: the processor here resizes a frame once, and in training each was resized twice."
    if not reads_clips(encoder):
        return "Clips are refused: the processor here has one budget of pixels for all frames, and in training each frame had its own."
    times = {"fps": config.frames_per_second, "total_num_frames": 8, "frames_indices": list(range(8))}
    note = f"A clip, here of 8 frames, is given with their times: `{{'video': {{'array': frames, 'video_metadata': {times}}}}}`."
    most = config.max_frames
    return f"{note} All frames are read here; in training at most {most} were, evenly spaced." if most else note


def _peft(request: ExportRequest, draft: Path) -> Layout:
    encoder = request.encoder
    adopted = encoder.architecture in ADOPTED
    if not adopted and encoder.architecture not in (*CHATS, *CLIPS):
        raise Refused(
            f"the release is of {encoder.architecture}, which has weights outside its {' and '.join(encoder.config.CHECKPOINTS)} that an "
            "adapter cannot contain; export it --to hf"
        )
    place = adopted_export.two_towers(request.release.folder / "encoder").place if adopted else ""
    base, revision = _without_adapter(*_base(request), request)
    if place:
        base = adopted_export.inner(base, place)
    (kind,) = encoder.config.CHECKPOINTS.values()
    before = open_checkpoint(Checkpoint(base, revision), kind).model
    trained: Any = encoder.model
    linear = {name for name, module in before.named_modules() if isinstance(module, torch.nn.Linear)}
    # The scale and the bias of a CLIP or SigLIP are of its loss and do not affect the vectors.
    after, published = ({k: v for k, v in model.state_dict().items() if k not in SCALES} for model in (trained, before))
    found = adapters(after, published, linear)
    rank = write_adapter(draft, found, base, revision)
    request.report(f"adapter of rank {rank} on {len(found)} layers of {base}")
    opened: Any = encoder.parts["model"]
    part = opened.part if adopted else opened
    for reader in (part.tokenizer, part.image_processor):
        reader.save_pretrained(draft)
    noted = adopted_export.limits(encoder) if adopted else (*_cleaned(encoder), LITERAL)
    limits = (
        f"The adapter, of rank {rank}, is the sum of what all training stages added to `{base}`; merged, the weights are the release's.",
        *(_shown(encoder) if encoder.architecture in CHATS else noted),
    )
    named = repr(base) + (f", revision={revision!r}" if revision else "")
    fields: dict[str, Any] = {
        "library": "peft",
        "needs": "torch transformers peft pillow",
        "opened": f'PeftModel.from_pretrained(AutoModel.from_pretrained({named}), "FOLDER")',
        "limits": limits,
        "tags": ("lora",),
    }
    if adopted:
        return Layout(usage=adopted_export.example(encoder, base=named), **fields)
    if encoder.architecture in CLIPS:
        return Layout(usage=usage_examples.clip(encoder.config, named), **fields)
    (draft / "chat_template.jinja").write_text(chat_template(encoder))
    return Layout(usage=usage_examples.chat(encoder.config, _side(encoder), named), **fields)


def _base(request: ExportRequest) -> tuple[str, str | None]:
    """The checkpoint under the adapter: the one that the user names, a published one, or the untrained encoder of the run."""
    if request.base is not None:
        return request.base, None
    if request.run is None:
        raise Refused(
            f"release {request.release.name} names no checkpoint it was trained from; give the folder of its run, or --base CHECKPOINT"
        )
    backbone = request.run["settings"]["backbone"]
    if published(request.run):
        return backbone["name"], backbone.get("revision")
    made = next((stage["target"] for stage in request.run["stages"] if stage["name"] == "backbone" and stage["digest"]), None)
    if made is None or not store.is_local(made):
        raise Refused(f"the untrained encoder of the run is at {made}, where PEFT cannot open it; fetch it and give its folder as --base")
    return str(store.local_path(made)), None


def _without_adapter(base: str, revision: str | None, request: ExportRequest) -> tuple[str, str | None]:
    """The model under a base that is an adapter itself: PEFT puts one adapter over a model, so the exported one is the sum of both."""
    under = None if request.base is not None or request.run is None else request.run["settings"]["backbone"].get("base")
    checkpoint = Checkpoint(base, revision, under)
    adapter = adapter_folder(checkpoint)
    if adapter is None:
        return base, revision
    model = base_of(checkpoint, adapter)
    return str(model.name), model.revision


def _copy_encoder(request: ExportRequest, draft: Path, *without: str) -> None:
    """Copies the encoder's files, and writes the widths that vectors may be truncated to where servers look for them."""
    shutil.copytree(request.release.folder / "encoder", draft, ignore=shutil.ignore_patterns(*without), dirs_exist_ok=True)
    if len(request.release.widths) > 1 and (draft / "config.json").is_file():
        sentence_transformers.amend_json(draft / "config.json", matryoshka_dimensions=list(request.release.widths))


LAYOUTS: dict[str, Callable[[ExportRequest, Path], Layout]] = {"hf": _hf, "sentence-transformers": _sentence_transformers, "peft": _peft}
