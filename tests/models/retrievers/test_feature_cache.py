"""Which features are kept and which are dropped, and that either all ranks run the tower or none."""

import os
import pickle

import torch
import torch.distributed as dist

from mirepoix.models.retrievers.feature_cache import FeatureCache
from tests.ranks import run_ranks

CPU = torch.device("cpu")
BLANK = -1


class Tower:
    """A stub tower: its features are ten times the picture, which is a number and its own key; it records its inputs."""

    def __init__(self):
        self.shown: list[list[int]] = []

    def through(self, cache: FeatureCache, keys: list[int]) -> list[float]:
        def see(places):
            self.shown.append([keys[place] for place in places] or [BLANK])
            return 10.0 * torch.tensor(self.shown[-1])

        return [state.item() for state in cache.get(keys, see, CPU)]


def test_what_was_seen_once_is_not_seen_again_however_often_a_batch_has_it():
    tower, cache = Tower(), FeatureCache(9)
    assert tower.through(cache, [3, 1, 3]) == [30, 10, 30]
    assert tower.through(cache, [1, 2]) == [10, 20]
    assert tower.through(cache, [2, 3, 1]) == [20, 30, 10]
    assert [sorted(shown) for shown in tower.shown] == [[1, 3], [2]]


def test_the_least_recently_used_leave_first():
    tower, cache = Tower(), FeatureCache(2)
    for keys in ([1], [2], [1], [3]):
        tower.through(cache, keys)
    assert list(cache.kept) == [1, 3]


def test_a_batch_of_more_than_it_can_keep_is_seen_all_the_same():
    tower, cache = Tower(), FeatureCache(1)
    assert tower.through(cache, [1, 2, 3]) == [10, 20, 30]
    assert tower.through(cache, [3, 2]) == [30, 20]
    assert tower.shown == [[1, 2, 3], [2]] and len(cache.kept) == 1


def test_what_it_keeps_holds_on_to_no_other_memory():
    """A slice of a batch's states would keep the whole batch alive."""
    cache = FeatureCache(9)
    batch = torch.ones(100, 7)
    cache.get(list(range(100)), lambda places: batch[places], CPU)
    assert all(state.untyped_storage().nbytes() == 7 * 4 for state in cache.kept.values())


def test_a_copy_starts_empty():
    cache = FeatureCache(5)
    Tower().through(cache, [1])
    again = pickle.loads(pickle.dumps(cache))
    assert (again.most, len(again.kept), len(cache.kept)) == (5, 0, 1)


def test_all_ranks_look_or_none_does(tmp_path):
    """A rank that ran the tower alone would wait for ever for the other ranks' shards of the weights."""
    run_ranks(_rank, 2, tmp_path)
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == [[[1], [BLANK], [BLANK]], [[1, 2], [3], [4]]]


def _rank(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    tower, cache = Tower(), FeatureCache(9)
    # First both miss some, then one has all that it is asked for, then neither misses any, then one has no picture at all.
    for keys in ([[1], [1], [1], []], [[1, 2], [2, 3], [3, 1], [4]])[rank]:
        assert tower.through(cache, keys) == [10 * key for key in keys]
    torch.save(tower.shown, folder / f"{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # at a normal exit, gloo's threads may outlive what they use and abort a process that has finished its work
