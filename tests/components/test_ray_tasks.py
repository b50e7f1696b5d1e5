"""No more workers than work and cores; results come in order; processes exit when the work is done."""

import os
import time

import pyarrow as pa
import pytest
import ray

from mirepoix.components.ray_tasks import INPUTS_PER_ACTOR, actor_pool, map_in_order, one_task_per_row, stream_tables, worker_count


def test_it_is_as_many_as_asked_for(ray_cluster):
    assert worker_count(5) == 5


def test_else_no_more_than_the_machine_has_cores_though_the_cluster_claims_more_cpus(ray_cluster):
    assert ray.cluster_resources()["CPU"] == 6
    assert worker_count(None) == min(6, os.cpu_count())


def test_each_row_is_a_task_of_its_own_in_order(ray_cluster):
    rows = [{"piece": number, "files": [{"name": f"f{number}"}]} for number in range(7)]
    dataset = one_task_per_row(rows)
    assert dataset.num_blocks() == 7
    seen = dataset.map_batches(
        lambda table: table.append_column("rows", [[table.num_rows]]), batch_format="pyarrow", batch_size=None, concurrency=2
    )
    assert sorted(seen.take_all(), key=lambda row: row["piece"]) == [{**row, "rows": 1} for row in rows]


def test_workers_exit_when_the_work_is_done(ray_cluster):
    def large(table):
        return pa.table({"pid": [os.getpid()], "data": [bytes(2_000_000)]})

    dataset = one_task_per_row([{"n": number} for number in range(12)]).map_batches(large, batch_format="pyarrow")
    seen = stream_tables(dataset)
    del dataset
    workers = {pid for table in seen for pid in table["pid"].to_pylist()}
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):
        assert time.monotonic() < deadline, f"of {workers} some are still there"
        time.sleep(0.2)


@ray.remote(num_cpus=0)
class Squares:
    """An actor that takes its time, as long as an input asks for."""

    def __init__(self, broken: bool = False):
        self.broken = broken

    def ready(self) -> int:
        if self.broken:
            raise ValueError("no weights")
        return os.getpid()

    def square(self, number: int, seconds: float = 0.0) -> tuple[int, int]:
        time.sleep(seconds)
        if number < 0:
            raise ValueError(f"{number} has no square")
        return number * number, os.getpid()

    def exit(self) -> None:
        os._exit(1)


def squares(actors, inputs):
    return map_in_order(actors, inputs, lambda actor, each: actor.square.remote(*each), lambda actor: actor.ready.remote())


def test_results_of_a_pool_come_in_the_order_of_the_inputs_though_one_actor_is_slow_and_one_does_not_fit(ray_cluster):
    with actor_pool([Squares.remote(), Squares.remote(), Squares.options(num_cpus=1000).remote()]) as actors:
        found = list(squares(actors, [(number, 0.3 if number == 0 else 0.01) for number in range(20)]))
        assert [square for square, _ in found] == [number * number for number in range(20)]
        pids = {pid for _, pid in found}
        assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "an actor outlives its pool"
        time.sleep(0.1)


def test_inputs_of_a_pool_are_read_as_they_are_needed(ray_cluster):
    read = []

    def inputs():
        for number in range(100):
            read.append(number)
            yield (number,)

    with actor_pool([Squares.remote()]) as actors:
        results = squares(actors, inputs())
        assert next(results)[0] == 0
        assert len(read) <= 2 * INPUTS_PER_ACTOR + 2
        assert sum(square for square, _ in results) == sum(number * number for number in range(1, 100))


def test_an_error_of_an_input_or_of_a_start_is_raised_as_it_is(ray_cluster):
    with actor_pool([Squares.remote()]) as actors:
        results = squares(actors, [(2,), (-1,), (3,)])
        assert next(results)[0] == 4
        with pytest.raises(ValueError, match="-1 has no square"):
            next(results)
    with actor_pool([Squares.remote(broken=True)]) as actors, pytest.raises(ValueError, match="no weights"):
        next(squares(actors, [(1,)]))


def test_an_actor_that_dies_is_started_again_and_its_inputs_are_done(ray_cluster):
    with actor_pool([Squares.options(max_restarts=2, max_task_retries=2).remote()]) as actors:
        results = squares(actors, [(number, 0.1) for number in range(6)])
        before = next(results)[1]
        actors[0].exit.options(max_task_retries=0).remote()
        after = list(results)
        assert [square for square, _ in after] == [1, 4, 9, 16, 25] and after[-1][1] != before
