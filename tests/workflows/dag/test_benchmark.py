"""The DAG of a benchmark ends with the evaluation, and reads the corpus that has lost its captions where it is to lose some."""

from dataclasses import replace

import pytest

from mirepoix.components.corpus.captions_config import CaptionsConfig
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.errors import Refused
from mirepoix.workflows.dag.benchmark import Benchmark


def stages(**more):
    return {stage.name: stage for stage in Benchmark(adapt=None, instruct=None, **more).stages()}


def test_no_release_is_made():
    made = stages()
    assert list(made)[-1] == "evaluate" and not {"release", "deploy"} & {*made} and "captions" not in made
    assert Benchmark(adapt=None, instruct=None).served is None


def test_everything_behind_curation_reads_the_corpus_without_its_captions():
    made = stages(captions=CaptionsConfig())
    assert list(made)[:3] == ["sources", "curate", "captions"] and made["captions"].inputs == {"curate": "curate"}
    readers = {name: stage.inputs["curate"] for name, stage in made.items() if "curate" in stage.inputs and name != "captions"}
    assert {"check", "pairs", "floors", "backbone", "embed", "evaluate"} <= {*readers} and {*readers.values()} == {"captions"}


def test_captions_are_not_removed_where_something_is_trained():
    with pytest.raises(Refused, match="captions are removed for measuring alone, and instruct is a training; give instruct=null"):
        Benchmark(adapt=None, instruct=TrainConfig(), captions=CaptionsConfig())


def test_a_training_on_a_benchmark_is_measured_too():
    made = {stage.name for stage in replace(Benchmark(adapt=None), instruct=TrainConfig()).stages()}
    assert {"instruct", "embed-untrained", "evaluate"} <= made and "release" not in made
