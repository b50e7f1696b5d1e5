"""A release as a folder that other libraries open, with a card that says what it is and how to use it.

hf                      the checkpoints that the encoder is built over, as transformers opens them
sentence-transformers   the same with its modules and prompts; of late interaction the text side, as PyLate reads it
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

from mirepoix.components.publishing import sentence_transformers, usage_examples
from mirepoix.components.publishing.chat_template import CHATS, chat_template, reads_clips
from mirepoix.components.publishing.lora_adapter import adapters, write_adapter
from mirepoix.components.publishing.model_card import Layout, card, published
from mirepoix.models.backbones.checkpoints import Checkpoint, open_part
from mirepoix.models.encoder import DESCRIPTION, HEAD, Encoder
from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.serving.release import Release

CARD = "README.md"
CLIPS = ("univldr",)  # towers whose vectors are added
LATES = ("mire",)  # a vector for each token
CHECKOUT = "mirepoix is on no registry of packages: CHECKOUT is a folder that holds its source, such as a clone of its repository."
LITERAL = "Control tokens in a text, such as `<|im_end|>`, are read as such here; mirepoix reads them as letters."
COUNTED = (
    "Positions count tokens, as the example gives them (`position_ids`). Without them transformers gives pictures the positions of their "
    "grid: texts come out the same, pictures do not."
)
CODE = "Positions count tokens, which `counted.py` sees to: the only code in this folder, and the reason for `trust_remote_code=True`."
RESIZED = (
    "Pictures are scaled by Pillow, as in training: `use_fast` in sentence_bert_config.json asks for it. A transformers that has dropped "
    "that word scales by torchvision, and single numbers of a vector then differ by 1e-4 to 2e-3. Frames of clips are always scaled by "
    "torchvision; where they need scaling, the difference is some 2e-4."
)


@dataclass(frozen=True)
class ExportRequest:
    """What is exported, and what is known of it."""

    release: Release
    encoder: Encoder
    run: Mapping[str, Any] | None  # the report of the run that made it
    base: str | None  # the checkpoint that training started from, where the user names it
    report: Callable[[str], None]


def export(
    release: Release,
    folder: Path,
    to: str,
    run: Mapping[str, Any] | None = None,
    base: str | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Writes the release into a new or empty folder, in one of `LAYOUTS`; nothing is there until all of it is."""
    if to not in LAYOUTS:
        raise Refused(f"layout {to!r} is not known; give one of {', '.join(LAYOUTS)}")
    if base is not None and to != "peft":
        raise Refused(f"a base is given, and --to {to} holds the whole weights; leave it out, or export --to peft")
    encoder = release.open_encoder()
    with _drafted(folder) as draft:
        layout = LAYOUTS[to](ExportRequest(release, encoder, run, base, report), draft)
        (draft / CARD).write_text(card(release, encoder, layout, run))
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        for path in files:
            report(f"{path.relative_to(draft)}  {_size(path.stat().st_size)}")
        total = _size(sum(path.stat().st_size for path in files))
    report(f"{total} in {folder}; {CARD} has the whole of what this begins:")
    report(f"  {layout.opened.replace('FOLDER', str(folder))}")
    return folder


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


@contextmanager
def _drafted(folder: Path) -> Iterator[Path]:
    """A folder beside the one that is asked for, which takes its place if all goes well and is gone if not."""
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


def _hf(order: ExportRequest, draft: Path) -> Layout:
    encoder = order.encoder
    _copy_encoder(order, draft)
    told = {"library": "transformers", "needs": "torch transformers pillow", "opened": 'AutoModel.from_pretrained("FOLDER")'}
    if encoder.architecture in CHATS:
        (draft / "chat_template.jinja").write_text(chat_template(encoder))
        return Layout(usage=usage_examples.chat(encoder.config), limits=_shown(encoder), **told)
    if encoder.architecture in CLIPS:
        return Layout(usage=usage_examples.clip(encoder.config), limits=(LITERAL,), **told)
    towers = " and ".join(f"`{name}/`" for name in encoder.CHECKPOINTS)
    limits = (
        f"{towers} are checkpoints that transformers' Auto classes open; how they work together, and the weights in `{HEAD}`, "
        "are known to mirepoix alone, which opens this folder as an encoder.",
        CHECKOUT,
    )
    return Layout(usage=usage_examples.ours(), limits=limits, **told | {"needs": "-e CHECKOUT", "opened": 'load_encoder("FOLDER")'})


def _sentence_transformers(order: ExportRequest, draft: Path) -> Layout:
    encoder, instructions = order.encoder, order.release.instructions
    if encoder.architecture not in (*CHATS, *CLIPS, *LATES):
        raise Refused(
            f"sentence-transformers has no modules for {encoder.architecture}, whose towers work together in a way of its own; "
            "export it --to hf"
        )
    if getattr(encoder.config, "fusion", None) == "late":
        raise Refused(
            "sentence-transformers reads an item at once, and this release was trained with fusion=late, which reads pictures and words "
            "apart; export it --to hf, whose example does so"
        )
    told = {"library": "sentence-transformers", "task": "sentence-similarity", "tags": ("sentence-transformers", "sentence-similarity")}
    if encoder.architecture in LATES:
        sentence_transformers.write_late(draft, encoder, instructions)
        limits = ("This is the text side. Pictures, and how text weighs them, are known to mirepoix alone: export --to hf for the whole.",)
        told |= {"needs": '"sentence-transformers>=6.2"', "opened": 'MultiVectorEncoder("FOLDER")'}
        return Layout(usage=usage_examples.sentence_late(), limits=limits, **told)
    _copy_encoder(order, draft, DESCRIPTION)
    told |= {"needs": '"sentence-transformers>=6" torchvision pillow', "opened": 'SentenceTransformer("FOLDER")'}
    if encoder.architecture in CLIPS:
        sentence_transformers.write_clip(draft, encoder, instructions)
        limits = (
            "A text with a picture is the sum of both before they are of unit length, which no module adds: see `together`.",
            "The wording of a query goes before its text; a query that is a picture alone is encoded without it.",
            LITERAL,
        )
        return Layout(usage=usage_examples.sentence_clip(), limits=limits, **told)
    (draft / "chat_template.jinja").write_text(chat_template(encoder))
    counted = bool(_counted(encoder))
    sentence_transformers.write_chat(draft, encoder, instructions, counted)
    if counted:
        told["opened"] = 'SentenceTransformer("FOLDER", trust_remote_code=True)'
    limits = (
        *([CODE] if counted else []),
        f"{_uncut(encoder)} `model.max_seq_length = {encoder.config.max_length}` cuts texts alike; with pictures it would cut off the "
        "token that is pooled.",
        _clips(encoder),
        RESIZED,
        LITERAL,
    )
    return Layout(usage=usage_examples.sentence_chat(counted), limits=limits, **told)


def _shown(encoder: Encoder) -> tuple[str, ...]:
    """What to know of the example of a multimodal language model."""
    return (*_counted(encoder), f"{_uncut(encoder)} The example reads no clips.", LITERAL)


def _uncut(encoder: Encoder) -> str:
    return f"Texts are not cut here; in training they were cut to {encoder.config.max_length} tokens of the whole prompt."


def _counted(encoder: Encoder) -> tuple[str, ...]:
    """What to know of positions, where they are not those that transformers gives."""
    return (COUNTED,) if getattr(encoder.config, "positions", None) == "1d" else ()


def _clips(encoder: Encoder) -> str:
    if not reads_clips(encoder):
        return "Clips are refused: what reads them here has one budget of pixels for all frames, and in training each frame had its own."
    told = {"fps": encoder.config.frames_per_second, "total_num_frames": 8, "frames_indices": list(range(8))}
    said = f"A clip, here of 8 frames, is given with their times: `{{'video': {{'array': frames, 'video_metadata': {told}}}}}`."
    most = encoder.config.max_frames
    return f"{said} All frames are read here; in training at most {most} were, evenly spaced." if most else said


def _peft(order: ExportRequest, draft: Path) -> Layout:
    encoder = order.encoder
    if encoder.architecture not in (*CHATS, *CLIPS):
        raise Refused(
            f"{encoder.architecture} has weights of its own beside {' and '.join(encoder.CHECKPOINTS)}, which no adapter holds; "
            "export it --to hf"
        )
    base, revision = _base(order)
    (kind,) = encoder.CHECKPOINTS.values()
    before = open_part(Checkpoint(base, revision), kind).model
    linear = {name for name, module in before.named_modules() if isinstance(module, torch.nn.Linear)}
    # Of a CLIP without its scale, which is the temperature: no vector hangs on it.
    after, published = ({k: v for k, v in model.state_dict().items() if k != "logit_scale"} for model in (encoder.model, before))
    found = adapters(after, published, linear)
    rank = write_adapter(draft, found, base, revision)
    order.report(f"adapter of rank {rank} on {len(found)} layers of {base}")
    for reader in (encoder.parts["model"].tokenizer, encoder.parts["model"].image_processor):
        reader.save_pretrained(draft)
    limits = (
        f"The adapter is what all stages of training added to `{base}`, of rank {rank}; merged, the weights are those of the release.",
        *(_shown(encoder) if encoder.architecture in CHATS else (LITERAL,)),
    )
    named = repr(base) + (f", revision={revision!r}" if revision else "")
    opened = f'PeftModel.from_pretrained(AutoModel.from_pretrained({named}), "FOLDER")'
    told = {"library": "peft", "needs": "torch transformers peft pillow", "opened": opened, "limits": limits, "tags": ("lora",)}
    if encoder.architecture in CLIPS:
        return Layout(usage=usage_examples.clip(encoder.config, named), **told)
    (draft / "chat_template.jinja").write_text(chat_template(encoder))
    return Layout(usage=usage_examples.chat(encoder.config, named), **told)


def _base(order: ExportRequest) -> tuple[str, str | None]:
    """The checkpoint under the adapters: as named, as published, or the untrained encoder that the run made."""
    if order.base is not None:
        return order.base, None
    if order.run is None:
        raise Refused(
            f"release {order.release.name} does not say what it was trained from; give the folder of its run, or --base CHECKPOINT"
        )
    told = order.run["settings"]["backbone"]
    if published(order.run):
        return told["name"], told.get("revision")
    made = next((stage["target"] for stage in order.run["stages"] if stage["name"] == "backbone" and stage["digest"]), None)
    if made is None or not store.is_local(made):
        raise Refused(f"the untrained encoder of the run is at {made}, where PEFT cannot open it; fetch it and give its folder as --base")
    return str(store.local_path(made)), None


def _copy_encoder(order: ExportRequest, draft: Path, *without: str) -> None:
    """The encoder's files, with the widths that vectors may be cut to where servers look for them."""
    shutil.copytree(order.release.folder / "encoder", draft, ignore=shutil.ignore_patterns(*without), dirs_exist_ok=True)
    if len(order.release.widths) > 1 and (draft / "config.json").is_file():
        sentence_transformers.amend_json(draft / "config.json", matryoshka_dimensions=list(order.release.widths))


LAYOUTS: dict[str, Callable[[ExportRequest, Path], Layout]] = {"hf": _hf, "sentence-transformers": _sentence_transformers, "peft": _peft}
