"""How many workers a stage of Ray Data has."""

import os

import ray


def crew(workers: int | None) -> int:
    """As many as asked for; else as many as the cluster has CPUs, but no more than its machines have cores.

    A private cluster claims more CPUs than there are, so that stages can wait for each other; more workers than cores only cost memory.
    """
    if workers is not None:
        return workers
    machines = sum(node["Alive"] for node in ray.nodes())
    return max(1, min(int(ray.cluster_resources().get("CPU", 1)), machines * (os.cpu_count() or 1)))
