"""As many workers as there is work for, and no more than cores."""

import os

import ray

from mirepoix.components.crew import crew


def test_it_is_as_many_as_asked_for(ray_cluster):
    assert crew(5) == 5


def test_else_no_more_than_the_machine_has_cores_though_the_cluster_claims_more_cpus(ray_cluster):
    assert ray.cluster_resources()["CPU"] == 6
    assert crew(None) == min(6, os.cpu_count())
