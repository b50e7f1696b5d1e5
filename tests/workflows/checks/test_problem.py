"""A run that cannot succeed is refused with a line for each reason."""

import pickle

from mirepoix.models.errors import Refused
from mirepoix.workflows.checks.problem import CannotSucceed, Problem

GPU, DISK = Problem("embed.use_gpu=true", "there is none", "give false"), Problem("the run writes much", "little is free", "free some")


def test_each_reason_is_a_line_that_says_what_was_given_what_is_there_and_what_to_do():
    refusal = CannotSucceed([GPU, DISK])
    assert isinstance(refusal, Refused)
    assert str(refusal) == "embed.use_gpu=true, and there is none; give false\nthe run writes much, and little is free; free some"


def test_the_refusal_pickles_with_its_reasons():
    assert pickle.loads(pickle.dumps(CannotSucceed([GPU, DISK]))).problems == (GPU, DISK)
