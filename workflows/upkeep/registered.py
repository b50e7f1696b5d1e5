"""What the model registry of MLflow is told of the aliases of a storage, with the runs that made their releases."""

from collections.abc import Iterator

from mirepoix.serving import store
from mirepoix.workflows.runner.model_registry import RegisteredModel, RegisteredRelease, mirror
from mirepoix.workflows.storage import present
from mirepoix.workflows.upkeep.aliases import Alias, Aliases, read_aliases
from mirepoix.workflows.upkeep.releases import Maker, makers_of, read_stored_release
from mirepoix.workflows.upkeep.runs import read_runs


def follow(storage: str) -> str:
    """Makes the model registry equal to the aliases; returns a line that says why it could not, empty where it could.

    Where another process has changed an alias meanwhile, it is done again: of two that follow, the slower one may have written what was so
    before.
    """
    warning, written, aliases = "", None, read_aliases(storage)
    while aliases != written and not warning:
        warning, written = mirror(storage, list(_models(storage, aliases))), aliases
        aliases = read_aliases(storage)
    return warning


def _models(storage: str, aliases: Aliases) -> Iterator[RegisteredModel]:
    makers = makers_of(read_runs(storage))
    for model in sorted({alias.model for alias in aliases.values()}):
        own = [alias for alias in aliases.values() if alias.model == model]
        named = {alias.alias: release for alias in own if (release := _release(storage, alias, makers)) is not None}
        yield RegisteredModel(model, named)


def _release(storage: str, alias: Alias, makers: dict[str, Maker]) -> RegisteredRelease | None:
    """The release that an alias names now, and the runs of MLflow that made and measured it; None where it names none."""
    if alias.now is None:
        return None
    place = alias.now.place
    stored = read_stored_release(storage, place)
    fields = {} if stored is None else stored.manifest.fields
    maker = makers.get(place)
    target = store.join(storage, *place.split("/"))
    return RegisteredRelease(
        alias.now.version,
        alias.now.digest,
        str(fields.get("key") or place.rpartition("/")[2]),
        target,
        fields.get("run_id"),
        None if maker is None else _measured_in(maker),
        {} if maker is None else {"run": maker.run.name, "recipe": maker.run.recipe, **({"arm": maker.arm} if maker.arm else {})},
    )


def _measured_in(maker: Maker) -> str | None:
    """The run of MLflow in which the release was evaluated."""
    stage = maker.stage("evaluate")
    if stage is None or not stage["digest"]:
        return None
    try:
        manifest = store.read_manifest(present(stage["target"], maker.run.folder))
    except store.Damaged:
        return None
    return None if manifest is None else manifest.fields.get("run_id")
