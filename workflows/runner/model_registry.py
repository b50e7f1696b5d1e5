"""The model registry of MLflow: the releases that the aliases of a storage name, as versions of registered models.

The storage decides, and the registry is made equal to it: what it missed while MLflow was out of reach is done with the next change.
Nothing of a release is uploaded. A model version has the folder of the release as its source, and a logged model beside it that carries the
metrics and the data sets of the runs that made and measured the release. A server of MLflow takes no folder of its machine as a source;
there the source is the logged model, whose tag `artefact` is the folder.

Of the aliases in MLflow those are removed that the storage has removed, and those that somebody gave to a release of this storage by hand.
Aliases of versions that are not of this storage stay: several storages may track into one MLflow, with releases of one name.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mirepoix.serving.store import is_local
from mirepoix.workflows.runner import tracking

if TYPE_CHECKING:
    from mirepoix.workflows.runner.tracking import MlflowClient

CATCH_UP = "the aliases in the storage hold, and `mirepoix releases sync`, or the next change of one, writes them into MLflow"
MODEL_TYPE = "retriever"
ABSENT, UNFIT_SOURCE = "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"
EXTERNAL, MODEL_VERSIONS = "mlflow.model.isExternal", "mlflow.modelVersions"
"""Tags of logged models: the files lie outside of MLflow; the versions of registered models that are made of it."""
CORPUS = "curate"
"""The data set that is searched, among the inputs of a stage."""
_UNFIT = re.compile("[/:.%\"']")
"""What the name of a logged model may not have."""


@dataclass(frozen=True)
class RegisteredRelease:
    """A release as the registry is told of it."""

    version: str
    digest: str
    key: str
    target: str  # its folder or URI
    run_id: str | None = None  # the run of MLflow in which its stage was done
    measured_in: str | None = None  # the run of MLflow in which it was evaluated
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, str]:
        return {**self.tags, "version": self.version, "digest": self.digest, "key": self.key, "artefact": self.target}


@dataclass(frozen=True)
class RegisteredModel:
    """The releases of one name by the aliases that name them; none where all its aliases were removed."""

    name: str
    aliases: Mapping[str, RegisteredRelease]


def mirror(storage: str, models: Sequence[RegisteredModel]) -> str:
    """Makes the registry equal to the aliases of a storage; returns a line that says why it could not, empty where it could."""
    uri = tracking.prepared_uri(storage)
    try:
        registry = _Registry(storage, uri)
        for model in models:
            registry.follow(model)
    except Exception as error:  # noqa: BLE001 an alias is changed whatever MLflow raises, and it raises whatever its store raises
        return f"MLflow at {uri} does not follow ({tracking.line_of(error)}); {CATCH_UP}"
    return ""


class _Registry:
    """The model registry, and the experiment of the runs."""

    def __init__(self, storage: str, uri: str):
        self.storage = tracking.storage_tags(storage)
        self.client: MlflowClient = tracking.connect(uri)
        self.experiment = tracking.experiment_id(self.client, tracking.EXPERIMENT, tracking.artifacts_folder(storage, uri))

    def follow(self, model: RegisteredModel) -> None:
        name = re.sub("[/:]", "_", model.name)
        known = self._aliases(name)
        if known is None:
            if not model.aliases:
                return
            self.client.create_registered_model(name)
            known = {}
        versions = self._versions(name) if known or model.aliases else []
        found: dict[str, str] = {}  # by the folder of the release
        for alias, release in model.aliases.items():
            version = found.get(release.target) or self._version_of(versions, release) or self._registered(name, release)
            found[release.target] = version
            if str(known.get(alias)) != version:
                self.client.set_registered_model_alias(name, alias, version)
        own = {str(version.version) for version in versions if self.storage.items() <= version.tags.items()}
        for alias, version in known.items():
            if alias not in model.aliases and str(version) in own:
                self.client.delete_registered_model_alias(name, alias)

    def _aliases(self, name: str) -> dict[str, Any] | None:
        """The versions of a registered model by their aliases; None where there is no such model."""
        try:
            return dict(self.client.get_registered_model(name).aliases)
        except Exception as error:
            if _code_of(error) == ABSENT:
                return None
            raise

    def _versions(self, name: str) -> list[Any]:
        quote = '"' if "'" in name else "'"
        return self._all(lambda page: self.client.search_model_versions(f"name = {quote}{name}{quote}", page_token=page))

    def _all(self, search: Callable[[str | None], Any]) -> list[Any]:
        """What a search finds, page by page."""
        found, page = [], None
        while True:
            some = search(page)
            found += some
            page = some.token
            if not page:
                return found

    def _version_of(self, versions: Sequence[Any], release: RegisteredRelease) -> str | None:
        """The newest version that points to a release; None where none does."""
        same = {"digest": release.digest, "artefact": release.target, **self.storage}.items()
        return max((str(version.version) for version in versions if same <= version.tags.items()), key=int, default=None)

    def _registered(self, name: str, release: RegisteredRelease) -> str:
        """A new version of a registered model, with a logged model beside it."""
        made_in, measured_in = self._run(release.run_id), self._run(release.measured_in)
        labels = {label: value[: tracking.TAG_LENGTH] for label, value in {**release.labels, **self.storage}.items()}
        model = self._logged_model(name, made_in, labels)
        if made_in is not None:
            self._link(model, made_in, measured_in)
        version = self._created(name, release.target, made_in, model, labels)
        self.client.set_logged_model_tags(model, {MODEL_VERSIONS: json.dumps([{"name": name, "version": version}])})
        return version

    def _logged_model(self, name: str, run: str | None, labels: dict[str, str]) -> str:
        """The id of the logged model of a release; of an attempt that MLflow did not let end, the one that it made."""
        digest = labels["digest"]
        search = self.client.search_logged_models
        known = self._all(lambda page: search([self.experiment], filter_string=f"tags.digest = '{digest}'", page_token=page))
        same = [model.model_id for model in known if labels.items() <= model.tags.items()]
        if same:
            return str(same[0])
        made = self.client.create_logged_model(self.experiment, _UNFIT.sub("_", name), run, {**labels, EXTERNAL: "true"}, None, MODEL_TYPE)
        self.client.finalize_logged_model(made.model_id, "READY")
        return str(made.model_id)

    def _link(self, model: str, made_in: str, measured_in: str | None) -> None:
        """Gives a logged model the metrics and data sets of the runs that made and measured it, and those runs the model."""
        kinds = tracking.entities()
        for id in filter(None, dict.fromkeys((made_in, measured_in))):
            run = self.client.get_run(id)
            given = {each.dataset.name: each.dataset.digest for each in (run.inputs.dataset_inputs if run.inputs else ())}
            name = CORPUS if CORPUS in given else next(iter(given), None)
            data = {} if name is None else {"dataset_name": name, "dataset_digest": given[name]}
            # The last points as the run has them, with their times and steps: MLflow adds them to the model alone.
            last = [kinds.Metric(each.key, each.value, each.timestamp, each.step, model, **data) for each in run.data.to_proto().metrics]
            self.client.log_batch(id, last)
        self.client.log_outputs(made_in, [kinds.LoggedModelOutput(model, 0)])
        if measured_in:
            self.client.log_inputs(measured_in, models=[kinds.LoggedModelInput(model)])

    def _created(self, name: str, target: str, run: str | None, model: str, labels: dict[str, str]) -> str:
        try:
            # With a logged model and no run, MLflow would look the model up in its default store, which is another one.
            linked = model if run is not None else None
            version = self.client.create_model_version(name, target, run, tags=labels, model_id=linked)
        except Exception as error:
            if not is_local(target) or _code_of(error) != UNFIT_SOURCE:
                raise
            version = self.client.create_model_version(name, f"models:/{model}", run, tags=labels, model_id=model)
        return str(version.version)

    def _run(self, run: str | None) -> str | None:
        """A run, if MLflow has it."""
        try:
            return self.client.get_run(run).info.run_id if run else None
        except Exception as error:
            if _code_of(error) == ABSENT:
                return None
            raise


def _code_of(error: Exception) -> str:
    """What MLflow says of a call that it refused, as RESOURCE_DOES_NOT_EXIST; empty of any other error."""
    return str(getattr(error, "error_code", ""))
