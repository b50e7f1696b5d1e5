"""The version of the code that a run is marked with."""

from mirepoix.workflows.runner.versions import code_version


def test_the_version_of_the_code_is_a_commit_or_a_hash():
    ((name, version),) = code_version().items()
    assert name in ("mlflow.source.git.commit", "source")
    assert len(version.removesuffix("-dirty")) in (40, 64)
