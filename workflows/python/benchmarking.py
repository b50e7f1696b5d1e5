"""`mirepoix.mteb_encoder`: a release or an encoder for mteb's tasks, from whatever names one."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from mirepoix.models.errors import Refused

if TYPE_CHECKING:
    from mirepoix.components.evaluation.mteb_encoder import MtebEncoder
    from mirepoix.models.encoder import Encoder
    from mirepoix.serving.in_process.retriever import Retriever


def mteb_encoder(
    target: "str | os.PathLike[str] | Retriever | Encoder",
    *,
    name: str | None = None,
    instructions: str | Mapping[str, str] | None = None,
    num_frames: int | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    **opening: Any,
) -> "MtebEncoder":
    """An encoder that `mteb.evaluate` takes.

    `target` is whatever `mirepoix.open` takes, with its options, what it returned, or an Encoder. `name` is that of the model in mteb's
    results. `instructions` is None: queries are asked in the words of the release; "task": in those of mteb's task; or a mapping of words
    by the name of a task, by what queries and documents consist of ("t->i"), and for all others under "". Of a clip `num_frames` frames
    are read, evenly spaced, or `fps` frames a second, at most `max_frames`; None: as many as the encoder reads.
    """
    if find_spec("mteb") is None:
        raise Refused("mteb is not installed; install it: pip install 'mirepoix[mteb]'")
    from mirepoix.components.evaluation.mteb_encoder import MtebEncoder
    from mirepoix.models.encoder import Encoder
    from mirepoix.serving.in_process.retriever import Retriever

    if isinstance(target, str | os.PathLike):
        from mirepoix.workflows.python.opening import open

        target = open(target, **opening)
    elif opening:
        raise Refused(f"{', '.join(opening)}: that is an option of opening, and what is given is open; leave it out")
    if isinstance(target, Encoder):
        target = Retriever(target, target.architecture)
    elif not isinstance(target, Retriever):
        raise Refused(f"mirepoix.mteb_encoder is given the type {type(target).__name__}; give what mirepoix.open takes, or returned")
    release = target.release
    return MtebEncoder(
        target.encoder,
        name or PurePath(target.name).name,
        revision=release.version if release else None,
        release_instructions=release.instructions if release else None,
        instructions=instructions,
        num_frames=num_frames,
        fps=fps,
        max_frames=max_frames,
    )
