"""`mirepoix.open`: a release or an encoder in this process, from whatever names one."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mirepoix.models.encoder_config import describes_encoder
from mirepoix.models.errors import Refused, first_line
from mirepoix.serving import store

# Refusals need no torch: what loads it is imported where an encoder is opened.
if TYPE_CHECKING:
    from mirepoix.models.encoder import Encoder
    from mirepoix.serving.in_process.retriever import Retriever


def open(
    target: str | os.PathLike[str],
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
    arm: str | None = None,
    revision: str | None = None,
) -> "Retriever":
    """A release, or an encoder by itself.

    `target` is the folder or URI of a release, or of a run that made one (of a comparison with its `arm`); the folder of an encoder that
    was saved here; the folder or hub id of a published checkpoint, which is adopted as its folder describes it, a hub id at a `revision`;
    or, of the storage, MIREPOIX_STORAGE or ./storage, "latest", an alias, or the name of a run, a version or its beginning, as
    `mirepoix serve` takes them.
    A release is verified first: its files by their digests, its encoder by golden vectors. `device` is as torch names it; None: a GPU
    where there is one. Code that a checkpoint brings runs with `trust_remote_code` alone.
    """
    if not isinstance(target, str | os.PathLike):
        raise Refused(f"mirepoix.open is given the type {type(target).__name__}; give a folder or a URI, as a text or a path, or a hub id")
    from mirepoix.workflows.upkeep.named import is_named, named_release

    name = os.fspath(target)
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        given = "bytes" if not isinstance(name, str) else "an empty text" if not name.strip() else f"{name!r}, which has a null character"
        raise Refused(f"mirepoix.open is given {given}; give a folder or a URI, as a text or a path, or a hub id")
    if is_named(name):
        name = named_release(name)
    place = _artefact(name, arm)
    if revision is not None and place is not None:
        raise Refused(f"revision is {revision!r}, and {name} is a folder; a revision is of a hub id")
    if place is not None and (place / "release.json").is_file():
        return _release(place, name, device, trust_remote_code)
    if place is not None and describes_encoder(place):
        from mirepoix.models.encoder import load_encoder

        return _model(load_encoder(place, trust_remote_code), name, device)
    if place is None:
        _refuse_out_of_reach(name, revision)
    return _model(_adopted(name if place is None else str(place), revision, trust_remote_code), name, device)


def _artefact(name: str, arm: str | None) -> Path | None:
    """The folder of a release, an encoder or a checkpoint, None for a hub id. A release is verified against its manifest."""
    from mirepoix.workflows.recipes.encoder_release import may_be_hub_id, refuse_no_checkpoint

    try:
        is_run = store.read(store.join(name, "report.json")) is not None
    except NotADirectoryError:
        is_run = False
    except OSError as error:
        raise Refused(f"{name} cannot be read ({first_line(error)}); give the folder or URI of a release, a run or a model") from error
    if is_run:
        from mirepoix.workflows.upkeep.lineage import lineage

        name, arm = lineage(name, arm).release, None
    if arm is not None:
        raise Refused(f"arm is {arm!r}, and {name} is no run of several arms; leave arm out")
    if not store.is_local(name):
        if store.read_manifest(name) is None:
            raise Refused(f"{name} holds no release and no encoder that was published; give the URI of one, or of a run that made one")
        return store.fetch(name, store.cache_folder())
    folder = store.local_path(name)
    if (folder / "release.json").is_file():
        return store.fetch(folder, store.cache_folder())
    if not folder.exists() and may_be_hub_id(name):
        return None
    if not describes_encoder(folder):
        refuse_no_checkpoint(folder, name)
    return folder.resolve()


def _release(folder: Path, name: str, device: str | None, trust_remote_code: bool) -> "Retriever":
    from mirepoix.serving.release import read_release

    release = read_release(folder)
    if release.custom_code and not trust_remote_code:
        raise Refused(
            f"release {release.name} {release.version} runs code that its checkpoint brought ({folder / 'encoder'}); read it, then give "
            "trust_remote_code=True"
        )
    from mirepoix.serving.in_process.retriever import Retriever

    return Retriever(release.open_encoder(_device(device), trust_remote_code), release.name, release)


def _model(encoder: "Encoder", name: str, device: str | None) -> "Retriever":
    from mirepoix.serving.in_process.retriever import Retriever

    return Retriever(encoder.to(_device(device)), name)


def _refuse_out_of_reach(id: str, revision: str | None) -> None:
    """Refuses a hub id that is not in the cache and that the hub does not have or does not answer for, after some seconds at most.

    The hub's own client tries for longer than a minute, and writes each try to standard error.
    """
    from mirepoix.workflows.checks.hub import HubModel, find_models, why_not

    for model, (state, detail) in find_models([HubModel("model", id, revision)]).items():
        if (problem := why_not(model, state, detail)) is not None:
            raise Refused(f"{problem}; {_of_storage()}")


def _of_storage() -> str:
    """What the storage has in the place of a name that nothing has: the newest of its runs."""
    from mirepoix.workflows.storage import opened_storage, run_names

    home = opened_storage(None)
    runs = [store.join(home, "runs", name) for name in run_names(home)[:3]]
    newest = f", and a run is given by its name or folder: the newest are {', '.join(runs)}" if runs else ""
    return f'"latest" is the latest release of the storage{newest}'


def _adopted(name: str, revision: str | None, trust_remote_code: bool) -> "Encoder":
    """A published checkpoint, as the recipe `search` embeds with it."""
    from mirepoix.components.training.backbone_config import BackboneConfig
    from mirepoix.workflows.recipes.search import MODEL

    config = BackboneConfig(MODEL.encoder, name, revision, trust_remote_code=trust_remote_code)
    from mirepoix.models.encoder import encoder_class

    return encoder_class(config.encoder).build(config.checkpoints, config.encoder).eval()


def _device(name: str | None) -> str:
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise Refused(f"device {name!r} cannot be used here ({first_line(error)}); give cpu, or leave device out") from error
    return name
