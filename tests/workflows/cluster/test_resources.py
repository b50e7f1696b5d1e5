"""A cluster is asked for its nodes and for what its autoscaler may start, by its address alone."""

import time

import pytest

from mirepoix.workflows.cluster.machine import Node
from mirepoix.workflows.cluster.resources import CONFIG, NAMESPACE, cluster_at


@pytest.fixture
def strange(ray_cluster, monkeypatch):
    """The address of a cluster that this process is taken not to be connected to."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return ray_cluster


def test_a_cluster_is_asked_by_its_address(strange):
    machine = cluster_at(strange)
    assert (machine.name, machine.nodes, machine.startable) == (f"the cluster at {strange}", (Node(6, 0),), ())
    assert machine.joined and not machine.problem


def test_the_node_types_of_an_autoscaler_are_what_it_may_start(strange):
    from ray._private.state import state
    from ray.core.generated import autoscaler_pb2
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    groups = [
        autoscaler_pb2.NodeGroupConfig(name="gpus", resources={"CPU": 8, "GPU": 4}, max_count=2),
        autoscaler_pb2.NodeGroupConfig(name="many", resources={"CPU": 2}, max_count=-1),
        autoscaler_pb2.NodeGroupConfig(name="none", resources={"CPU": 99}, max_count=0),
    ]
    config = autoscaler_pb2.ClusterConfig(node_group_configs=groups)
    _internal_kv_put(CONFIG, config.SerializeToString(), namespace=NAMESPACE)
    try:
        assert state.get_cluster_config() == config, "where Ray itself looks for it"
        machine = cluster_at(strange)
    finally:
        _internal_kv_del(CONFIG, namespace=NAMESPACE)
    assert machine.startable == (Node(8, 4, count=2), Node(2, 0, count=float("inf")))
    assert machine.gpus == 8 and machine.cpus == float("inf")


def test_the_cluster_that_this_process_uses_needs_no_address(ray_cluster):
    assert cluster_at(None).nodes == (Node(6, 0),)


def test_an_address_where_nothing_answers_is_a_problem_within_seconds(strange, monkeypatch):
    began = time.monotonic()
    machine = cluster_at("127.0.0.1:9")
    assert machine.nodes == () and "no Ray head answers at '127.0.0.1:9'" in machine.problem
    assert time.monotonic() - began < 5


def test_the_address_of_a_dashboard_is_left_to_the_refusal_of_whoever_connects(strange):
    machine = cluster_at("http://head:8265")
    assert (machine.nodes, machine.problem) == ((), "")
