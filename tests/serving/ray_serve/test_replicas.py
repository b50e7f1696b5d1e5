"""A replica that is asked for the metrics tells those of all that answer."""

import asyncio

import pytest

from mirepoix.serving.ray_serve.replicas import gathered

HELP = "# HELP mirepoix_tokens_total Tokens encoded\n"


class Replicas:
    """The replicas of a deployment, as its handle tells of them: the metrics of each, or what went wrong."""

    def __init__(self, *told):
        self.told = told

    def broadcast(self, method):
        assert method == "metrics_text"
        return self

    async def results_async(self, timeout_s, return_exceptions):
        assert return_exceptions and 0 < timeout_s < 10
        if isinstance(self.told[0], TimeoutError):
            raise self.told[0]
        return list(self.told)


def metrics(*told):
    return asyncio.run(gathered(("mine", f"{HELP}mirepoix_tokens_total 3.0\n"), Replicas(*told))).decode()


def test_the_metrics_of_all_replicas_are_told_but_for_one_that_does_not_answer():
    other = f"{HELP}mirepoix_tokens_total 4.0\n"
    told = metrics(("mine", f"{HELP}mirepoix_tokens_total 3.0\n"), RuntimeError("it is dead"), ("other", other))
    assert told == f'{HELP}mirepoix_tokens_total{{replica="mine"}} 3.0\nmirepoix_tokens_total{{replica="other"}} 4.0\n'


@pytest.mark.parametrize("end", [TimeoutError("none answers"), RuntimeError("it is dead")])
def test_one_replica_that_answers_alone_tells_its_metrics_without_a_label(end):
    assert metrics(end) == f"{HELP}mirepoix_tokens_total 3.0\n"
