"""Numbers by ids are found however many there are."""

from mirepoix.components.ingestion import id_map
from mirepoix.components.ingestion.id_map import IdMap


def test_numbers_are_found_in_the_dict_and_in_the_arrays(monkeypatch):
    monkeypatch.setattr(id_map, "RECENT", 7)
    held, expected = IdMap("i8", "u1"), {}
    for start in range(0, 1000, 5):
        names = [f"d{number % 600}" for number in range(start, start + 5)] + [f"d{start % 600}"]
        for name, (key, numbers) in zip(names, held.find(names), strict=True):
            assert numbers == expected.get(name)
            if numbers is None:
                held.recent[key] = expected[name] = (-len(expected), len(expected) % 7)
    assert len(expected) == 600 and len(held.chunks) < 6
    assert [numbers for _, numbers in held.find(expected)] == list(expected.values())
