"""Requests that are let in count until they are in the queue, so that a burst does not find it empty."""

from mirepoix.serving.http.admission import Admission


def test_a_burst_is_let_in_up_to_what_is_in_time():
    admission = Admission(lambda count: 0.1 * count - 0.45)
    scopes = [{} for _ in range(20)]
    let_in = [scope for scope in scopes if admission.late_s <= 0 and (admission.enter(scope) or True)]
    assert len(let_in) == 5


def test_a_request_counts_once_and_no_longer_when_it_is_in_the_queue_or_has_ended():
    admission, scope = Admission(), {}
    admission.leave(scope)
    assert admission.count == 0, "one that was never let in is none"
    admission.enter(scope)
    admission.enter(scope)
    assert admission.count == 1 and admission.entered(scope)
    admission.leave(scope)
    admission.leave(scope)
    admission.enter(scope)
    assert admission.count == 0 and admission.entered(scope), "it is let in once"
