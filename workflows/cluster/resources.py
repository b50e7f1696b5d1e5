"""Asks a Ray cluster, without joining it, which nodes it has and which ones its autoscaler may start."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.workflows.cluster.machine import Machine, Node

NAMESPACE, CONFIG = b"__autoscaler", b"__autoscaler_cluster_config"
"""Where Ray keeps what an autoscaler told it of its node types."""
ALIVE = 0
UNLIMITED = float("inf")


def cluster_at(address: str | None) -> Machine:
    """The cluster that this process is connected to, else the one at an address; `problem` says why it cannot be asked."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        import ray

        return joined(ray.get_runtime_context().gcs_address, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    assert address is not None, "there is no cluster to ask"
    if "://" in address:
        return Machine(f"the cluster at {address}", (), joined=True)  # `connect` refuses it, and says what to give
    try:
        return joined(address, *_asked(address))
    except Refused as refusal:
        return Machine(f"the cluster at {address}", (), joined=True, problem=str(refusal))


def joined(address: str, resources: Iterable[Mapping[str, float]], startable: tuple[Node, ...] = ()) -> Machine:
    """A cluster by the resources of its nodes and the node types that its autoscaler may start."""
    return Machine(f"the cluster at {address}", tuple(_node(each) for each in resources), startable, joined=True)


def _node(resources: Mapping[str, float], count: float = 1) -> Node:
    """A node; what Ray calls its memory is what was free when it was started, less the object store, so the memory counts as unknown."""
    return Node(resources.get("CPU", 0), resources.get("GPU", 0), count=count)


def _asked(address: str) -> tuple[list[Mapping[str, float]], tuple[Node, ...]]:
    """The resources of each node of a cluster, and its autoscaler's node types, of which there are none without an autoscaler."""
    import grpc
    from ray._private.services import canonicalize_bootstrap_address
    from ray.core.generated import gcs_service_pb2_grpc as services
    from ray.core.generated.autoscaler_pb2 import ClusterConfig  # type: ignore[attr-defined]  # made when imported
    from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoRequest, InternalKVGetRequest  # type: ignore[attr-defined]

    from mirepoix.workflows.cluster.ray_cluster import CONNECT_SECONDS, refusals_of_head, token_metadata

    if address == "auto":
        address = canonicalize_bootstrap_address("auto") or "127.0.0.1:6379"
    with refusals_of_head(address), grpc.insecure_channel(address) as channel:
        options: dict[str, Any] = {"metadata": token_metadata(), "timeout": CONNECT_SECONDS / 2, "wait_for_ready": False}
        nodes = services.NodeInfoGcsServiceStub(channel).GetAllNodeInfo(GetAllNodeInfoRequest(), **options)
        wanted = InternalKVGetRequest(namespace=NAMESPACE, key=CONFIG)
        config = services.InternalKVGcsServiceStub(channel).InternalKVGet(wanted, **options).value
    resources: list[Mapping[str, float]] = [dict(node.resources_total) for node in nodes.node_info_list if node.state == ALIVE]
    return resources, node_types(ClusterConfig.FromString(config)) if config else ()


def node_types(config: Any) -> tuple[Node, ...]:
    """The node types of an autoscaler's config that may be started."""
    groups = [(dict(group.resources), group.max_count) for group in config.node_group_configs]
    return tuple(_node(resources, UNLIMITED if most < 0 else most) for resources, most in groups if most)
