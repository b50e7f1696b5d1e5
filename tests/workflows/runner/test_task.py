"""The line that a user reads names the error, however deeply it is nested."""

from pathlib import Path

import pytest
import ray
import ray.data

from mirepoix.models.errors import Refused
from mirepoix.workflows.runner.task import root_cause


def raised(work) -> BaseException:
    with pytest.raises(Exception) as caught:
        work()
    return caught.value


def test_the_deepest_cause_is_named():
    def work():
        try:
            Path("/no/such/file").read_text()
        except OSError as error:
            raise RuntimeError("cannot start") from error

    assert root_cause(raised(work)) == "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/file'"


def test_a_refusal_speaks_for_itself_whatever_caused_it():
    def work():
        try:
            {}["flavour"]
        except KeyError as error:
            raise Refused("no flavour given;\n  give one") from error

    assert root_cause(raised(work)) == "no flavour given; give one"


def test_an_error_without_words_still_has_a_name():
    assert root_cause(ValueError()) == "ValueError: no message"


@pytest.mark.parametrize(("error", "line"), [(Refused("no such flavour"), "no such flavour"), (KeyError("salt"), "KeyError: 'salt'")])
def test_a_task_within_a_task_is_opened(ray_cluster, error, line):
    @ray.remote(num_cpus=0)
    def inner():
        raise error

    @ray.remote(num_cpus=0)
    def outer():
        ray.get(inner.remote())

    assert root_cause(raised(lambda: ray.get(outer.remote()))) == line


@pytest.mark.parametrize(
    ("error", "line"), [(Refused("row 3 has no picture"), "row 3 has no picture"), (ValueError("rotten"), "ValueError: rotten")]
)
def test_an_error_in_a_row_of_ray_data_is_found(ray_cluster, error, line):
    def spoil(row):
        raise error

    assert root_cause(raised(ray.data.range(4, override_num_blocks=1).map(spoil).materialize)) == line
