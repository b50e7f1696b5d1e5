"""No more workers than work and cores; they exit when it is done."""

import os
import time

import pyarrow as pa
import ray

from mirepoix.components.ray_tasks import one_task_per_row, stream_tables, worker_count


def test_it_is_as_many_as_asked_for(ray_cluster):
    assert worker_count(5) == 5


def test_else_no_more_than_the_machine_has_cores_though_the_cluster_claims_more_cpus(ray_cluster):
    assert ray.cluster_resources()["CPU"] == 6
    assert worker_count(None) == min(6, os.cpu_count())


def test_each_row_is_a_task_of_its_own_in_order(ray_cluster):
    rows = [{"piece": number, "files": [{"name": f"f{number}"}]} for number in range(7)]
    dataset = one_task_per_row(rows)
    assert dataset.num_blocks() == 7
    seen = dataset.map_batches(lambda table: table.append_column("rows", [[table.num_rows]]), batch_format="pyarrow", batch_size=None)
    assert sorted(seen.take_all(), key=lambda row: row["piece"]) == [{**row, "rows": 1} for row in rows]


def test_workers_exit_when_the_work_is_done(ray_cluster):
    def large(table):
        return pa.table({"pid": [os.getpid()], "data": [bytes(2_000_000)]})

    told = one_task_per_row([{"n": number} for number in range(12)]).map_batches(large, batch_format="pyarrow")
    seen = stream_tables(told)
    del told
    workers = {pid for table in seen for pid in table["pid"].to_pylist()}
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):
        assert time.monotonic() < deadline, f"of {workers} some are still there"
        time.sleep(0.2)
