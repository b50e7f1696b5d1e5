"""What a release takes, and what there is."""

from mirepoix.serving.local.memory import OVERHEAD, available, needed


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
    assert available() > 1 << 20


def test_a_release_takes_its_weights_for_each_encoder(tmp_path):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"x" * 10_000)
    (tmp_path / "index").mkdir()
    assert needed(tmp_path, 1) == OVERHEAD + 12_000 and needed(tmp_path, 3) == 3 * needed(tmp_path, 1)
