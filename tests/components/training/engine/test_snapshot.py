"""Copies of a training's state do not change with it, and take their memory once."""

from collections import OrderedDict

import torch

from mirepoix.components.training.engine.snapshot import Copies


def test_copies_do_not_change_with_what_was_copied():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    state = {"groups": [{"params": [weight], "lr": 0.1}], "step": torch.tensor(3), "name": "adam", "shape": weight.shape}
    copied = Copies().of(state, ())
    with torch.no_grad():
        weight.mul_(2)
    state["step"] += 1
    state["groups"][0]["lr"] = 0.2
    state["groups"].append({})
    assert copied["groups"][0]["lr"] == 0.1 and len(copied["groups"]) == 1
    assert copied["step"].item() == 3 and copied["name"] == "adam" and copied["shape"] == (2,)
    assert copied["groups"][0]["params"][0].tolist() == [1.0, 2.0] and not copied["groups"][0]["params"][0].requires_grad


def test_the_next_copy_of_a_tensor_is_made_in_the_same_memory():
    copies = Copies()
    places = [copies.of([torch.full((4,), float(number))], ("file",))[0].data_ptr() for number in range(3)]
    assert len(set(places)) == 1
    other = copies.of([torch.zeros(5)], ("file",))[0]
    assert other.tolist() == [0.0] * 5


def test_a_copied_state_is_of_the_same_kind_and_tied_tensors_stay_tied():
    state = torch.nn.Linear(2, 2).state_dict()
    state["tied"] = state["weight"]
    copied = Copies().of(state, ())
    assert type(copied) is OrderedDict and copied._metadata == state._metadata
    assert copied["tied"].data_ptr() == copied["weight"].data_ptr() != state["weight"].data_ptr()


def test_of_a_view_only_what_it_shows_is_copied():
    copied = Copies().of(torch.arange(100.0)[10:12], ())
    assert copied.tolist() == [10.0, 11.0] and copied.untyped_storage().nbytes() == 8
