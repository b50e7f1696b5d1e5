"""What a release takes, and what there is."""

import pytest

from mirepoix.serving.engine.memory import OVERHEAD, Room, available, available_or_all, needed, shortest


def test_what_is_available_is_the_least_of_machine_and_container(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:  8 kB\n")
    assert available(meminfo, tmp_path) == 8192
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1\n")
    assert available(meminfo, tmp_path) == 8192
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available(meminfo, tmp_path) == 4000
    assert available(tmp_path / "nothing", tmp_path / "nowhere") is None
    assert available_or_all() > 1 << 20


def test_the_limit_of_a_service_is_seen_in_its_own_group_and_those_above_it(tmp_path):
    own, service = tmp_path / "own", tmp_path / "system.slice" / "mirepoix.service"
    service.mkdir(parents=True)
    own.write_text("0::/system.slice/mirepoix.service\n")
    for group, limit in ((service, "5000"), (service.parent, "max"), (tmp_path, "9000")):
        (group / "memory.max").write_text(limit)
        (group / "memory.current").write_text("1000")
    assert available(tmp_path / "nothing", tmp_path, own) == 4000
    (service.parent / "memory.max").write_text("3000")
    assert available(tmp_path / "nothing", tmp_path, own) == 2000
    for outside in ("0::/../other\n", "0::/not/there\n", "0::/\n", "1:memory:/a\n", ""):
        own.write_text(outside)
        assert available(tmp_path / "nothing", tmp_path, own) == 8000


@pytest.mark.parametrize("name", ["inactive_file", "total_inactive_file"])
def test_files_that_a_container_holds_in_memory_are_dropped_when_it_is_needed(tmp_path, name):
    for file, content in (("memory.max", "5000"), ("memory.current", "4500"), ("memory.stat", f"anon 100\n{name} 4000\n")):
        (tmp_path / file).write_text(content)
    assert available(tmp_path / "nothing", tmp_path) == 4500
    (tmp_path / "memory.stat").write_text("anon 4500\n")
    assert available(tmp_path / "nothing", tmp_path) == 500


def test_a_release_takes_its_weights_for_each_encoder(tmp_path):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"x" * 10_000)
    (tmp_path / "index").mkdir()
    assert needed(tmp_path, 1) == OVERHEAD + 12_000 and needed(tmp_path, 3) == 3 * needed(tmp_path, 1)


def test_encoders_of_one_place_share_its_memory_and_what_lacks_most_is_said():
    room = Room("tiny v2", 6 << 20, 10 << 20, 3.0, "on node a")
    assert shortest([room]) is None and shortest([]) is None
    assert shortest([room, room._replace(place="on node b")]) is None
    assert shortest([room._replace(there=None), room._replace(place="", there=None)]) is None
    both = shortest([room, room._replace(there=9 << 20, opened_s=5.0), room._replace(wanted=40 << 20, there=39 << 20, place="on node b")])
    assert both == ("tiny v2", 12 << 20, 9 << 20, 5.0, "on node a")
    said = "tiny v2 needs about 12 MiB beside the release that answers on node a, and 9 MiB are there"
    assert (
        str(both.refusal())
        == f"{said}; with --pause the old one ends first, and requests wait for those under way and about 5 seconds more"
    )
    assert str(both.refusal("pause: true")).endswith(
        "are there; with pause: true the old one ends first, and requests wait for those under way and about 5 seconds more"
    )
    assert both.pause == f"{said}: the old one ends first, and requests wait for those under way and about 5 seconds more"
