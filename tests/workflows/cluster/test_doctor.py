"""Each check of the machine can fail, and gives what was found and what to do."""

import json
import os
import socket
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mirepoix.workflows.cluster import doctor
from mirepoix.workflows.cluster.doctor import GIB, MachineCheck

Usage = namedtuple("Usage", "total used free")


def versions_of(**found: str):
    return lambda name: found.get(name.replace("-", "_"))


@pytest.fixture
def nowhere(monkeypatch, tmp_path: Path) -> Path:
    """A PATH on which there is nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_this_machine_can_run_us(tmp_path: Path):
    found = doctor.checks(str(tmp_path))
    assert not [check for check in found if check.state == "fail"]
    assert all(check.advice for check in found if check.state != "ok")
    assert len({check.what for check in found}) == len(found) >= 25


def test_the_table_has_a_line_for_each_check_and_the_advice_below_it():
    lines = doctor.doctor_table([MachineCheck("a", "ok", "1"), MachineCheck("longer", "fail", "none", "install it")]).splitlines()
    assert lines == ["ok    a       1", "fail  longer  none", "              -> install it", "1 ok, 0 warn, 1 fail"]


def test_the_json_has_the_same_checks(capsys, monkeypatch):
    made = [MachineCheck("a", "warn", "1", "x")]
    monkeypatch.setattr(doctor, "checks", lambda storage: made)
    assert doctor.main(json_output=True) == 0
    assert json.loads(capsys.readouterr().out) == [{"what": "a", "state": "warn", "found": "1", "advice": "x"}]


def test_a_failed_check_is_the_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "checks", lambda storage: [MachineCheck("a", "fail", "1", "x")])
    assert doctor.main() == 1
    assert "-> x" in capsys.readouterr().out


def test_an_old_python_fails():
    assert doctor.python((3, 10, 4)).state == "fail"
    assert doctor.python().state == "ok"


def test_one_cpu_is_a_warning():
    assert doctor.cpus(1).state == "warn"
    assert doctor.cpus(2).state == "ok"


def test_little_memory_is_a_warning():
    assert doctor.memory(available=1 * GIB).found == "1.0 GiB available"
    assert doctor.memory(available=1 * GIB).state == "warn"
    assert doctor.memory(available=8 * GIB).state == "ok"
    assert doctor.memory(0.0).state == "ok" and doctor.memory(2.0**50).state == "warn"


def test_a_container_with_the_default_shared_memory_is_warned(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(64 * 2**20, 0, 64 * 2**20))
    check = doctor.shared_memory(tmp_path)
    assert check.state == "warn" and "--shm-size" in check.advice
    assert doctor.shared_memory(tmp_path / "missing").state == "ok"


def test_a_package_that_is_missing_or_too_old_fails_with_the_command_that_installs_it():
    required = {"ray": Requirement("ray[default]>=2.60"), "torch": Requirement("torch>=2.10")}
    found = {check.what: check for check in doctor.versions(required, versions_of(ray="2.59.1", torch="2.13.0+cpu"))}
    assert found["ray"].state == "fail" and found["ray"].advice == "pip install 'ray>=2.60'"
    assert found["torch"].state == "ok"
    assert found["mlflow"].state == "fail" and found["mlflow"].found == "not installed"


def test_the_floors_are_those_of_the_project():
    floors = doctor.floors()
    assert set(doctor.PACKAGES) <= set(floors)
    assert str(floors["ray"].specifier) == ">=2.56" and "faiss-cpu" not in floors


LOADED = {"version": "1.15.1", "gpus": 0, "options": ["OPTIMIZE", "AVX2"]}
MISSING = "ModuleNotFoundError: No module named 'faiss'"


@pytest.mark.parametrize(
    ("installed", "probed", "state", "advice"),
    [
        ({"faiss_cpu": "1.15.1"}, LOADED, "ok", ""),
        ({"faiss_gpu": "1.15.1"}, LOADED | {"gpus": 2}, "ok", ""),
        ({"faiss_gpu": "1.15.1"}, LOADED, "warn", "it finds no GPU"),
        ({"faiss_gpu": "1.15.1"}, "ImportError: libcudart.so.12: cannot open", "fail", "install the CUDA libraries"),
        (
            {"faiss_cpu": "1.15.1", "faiss_gpu": "1.15.1"},
            LOADED,
            "fail",
            "pip uninstall -y faiss-cpu faiss-gpu faiss-gpu-cuvs && pip install 'mirepoix[cpu]'",
        ),
        ({"faiss_gpu_cuvs": "1.15.1"}, LOADED | {"gpus": 1}, "ok", ""),
        ({"faiss_gpu_cuvs": "1.15.1"}, LOADED, "warn", "it finds no GPU: check nvidia-smi, or pip uninstall -y faiss-gpu-cuvs &&"),
        ({"faiss_gpu": "1.15.1", "faiss_gpu_cuvs": "1.15.1"}, LOADED, "fail", "pip uninstall -y faiss-cpu faiss-gpu faiss-gpu-cuvs &&"),
        ({}, MISSING, "fail", "pip install 'mirepoix[cpu]'"),
        ({"faiss_cpu": "1.15.1"}, MISSING, "fail", "pip install --force-reinstall --no-deps faiss-cpu"),
        ({}, LOADED, "ok", ""),
    ],
)
def test_exactly_one_faiss_and_it_loads(installed, probed, state, advice):
    check = doctor.faiss(probed, versions_of(**installed))
    assert check.state == state and check.advice.startswith(advice) and bool(check.advice) == (state != "ok")


def test_the_check_of_the_installed_faiss_names_its_gpus_and_how_it_was_compiled():
    import faiss

    with doctor.probe(doctor.FAISS_PROBE) as asked:
        check = doctor.faiss(doctor.probe_result(asked))
    assert check.state == "ok" and faiss.__version__ in check.found
    assert f"{faiss.get_num_gpus()} GPUs; compiled with {faiss.get_compile_options().strip()}" in check.found


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", "ImportError: libcudart.so.12: cannot open"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "status -11"),
    ],
    ids=["a library is missing", "the import kills"],
)
def test_a_faiss_that_cannot_be_imported_fails_with_why(tmp_path: Path, monkeypatch, module, words):
    (tmp_path / "faiss.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with doctor.probe(doctor.FAISS_PROBE) as asked:
        check = doctor.faiss(doctor.probe_result(asked), versions_of(faiss_gpu="1.15.1"))
    assert check.state == "fail" and words in check.found and "mirepoix[cpu]" in check.advice


def test_a_probe_that_never_answers_is_given_up():
    with doctor.probe("import time; time.sleep(60)") as asked:
        assert doctor.probe_result(asked, seconds=0.2) == "no answer within 0.2 seconds"


def test_what_a_probe_prints_before_its_answer_does_not_count():
    with doctor.probe("print('a notice'); print('{}')") as asked:
        assert doctor.probe_result(asked) == {}


def test_gpus_that_torch_does_not_see_are_a_warning(tmp_path: Path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: H100'\necho 'GPU 1: H100'\n")
    smi.chmod(0o755)
    check = doctor.gpus(str(smi))
    assert check.state == "warn" and check.found.startswith("2 by nvidia-smi") and "CUDA build" in check.advice
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert doctor.gpus(str(smi)).state == "ok"


def test_no_compiler_and_no_torchvision_are_no_failure(nowhere):
    probed = {"accelerator": "cpu", "operators": {"cpu_adam": True, "async_io": False}}
    found = doctor.operators(probed)
    assert found.state == "ok" and "none needed" in found.found
    assert found.found.endswith("may ask for none (no C++ compiler); not for cpu_adam, async_io")
    assert doctor.operators(probed, "/usr/bin/g++").found.endswith("may ask for cpu_adam, built by /usr/bin/g++; not for async_io")
    assert doctor.torchvision(versions_of()).state == "ok"
    assert "0.28" in doctor.torchvision(versions_of(torchvision="0.28")).found


def test_the_check_of_the_installed_deepspeed_names_the_operators_that_it_could_build():
    with doctor.probe(doctor.OPERATORS_PROBE) as asked:
        probed = doctor.probe_result(asked)
    assert probed["operators"]["cpu_adam"] is True and "deepspeed_not_implemented" not in probed["operators"]
    assert doctor.operators(probed, "/usr/bin/g++").state == "ok"


def test_a_deepspeed_that_cannot_be_imported_fails(tmp_path: Path, monkeypatch):
    (tmp_path / "deepspeed.py").write_text("raise RuntimeError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with doctor.probe(doctor.OPERATORS_PROBE) as asked:
        check = doctor.operators(doctor.probe_result(asked))
    assert check.state == "fail" and "RuntimeError: broken" in check.found and "deepspeed" in check.advice


def test_a_port_in_use_is_a_warning_that_names_who_uses_it():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        check = doctor.port(number, "the search endpoint")
        assert check.state == "warn" and f"process {os.getpid()}" in check.found
    assert doctor.port(number, "the search endpoint").state == "ok"


def test_disabled_tokens_are_a_warning(tmp_path: Path):
    (check,) = doctor.ray_authentication({"RAY_AUTH_MODE": "disabled"}, tmp_path)
    assert check.state == "warn" and "RAY_AUTH_MODE=token" in check.advice


def test_token_mode_without_a_token_fails(tmp_path: Path):
    (check,) = doctor.ray_authentication({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, tmp_path)
    assert check.state == "fail" and "ray get-auth-token --generate" in check.advice
    (check,) = doctor.ray_authentication({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t"}, tmp_path)
    assert check.state == "ok"


def test_a_token_that_others_can_read_is_a_warning(tmp_path: Path):
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    first, second = doctor.ray_authentication({}, tmp_path)
    assert first.state == "ok" and second.state == "warn"
    assert "0644" in second.found and second.advice == f"others can read it: chmod 600 {token}"
    token.chmod(0o600)
    assert len(list(doctor.ray_authentication({}, tmp_path))) == 1


def test_a_storage_that_cannot_be_written_fails(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    storage, _ = doctor.storage_root(str(file / "below"))
    assert storage.state == "fail" and "MIREPOIX_STORAGE" in storage.advice


def test_a_storage_that_is_not_there_yet_is_fine_and_is_not_made(tmp_path: Path):
    storage, disk = doctor.storage_root(str(tmp_path / "a" / "b"))
    assert (storage.state, disk.state) == ("ok", "ok")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_warning(tmp_path: Path):
    _, disk = doctor.storage_root(str(tmp_path), needed=2**60)
    assert disk.state == "warn" and "free some" in disk.advice


def test_a_storage_uri_that_leads_nowhere_fails():
    (check,) = doctor.storage_root("nosuch://bucket/store")
    assert check.state == "fail" and "nosuch://bucket/store" in check.found


def test_a_storage_uri_with_a_key_in_it_fails_and_is_not_printed():
    (check,) = doctor.storage_root("s3://name:hidden@bucket/store")
    assert check.state == "fail" and "AWS_ACCESS_KEY_ID" in check.advice
    assert "hidden" not in check.found + check.advice


def test_a_storage_uri_that_leads_somewhere_is_fine(tmp_path: Path):
    assert [check.state for check in doctor.storage_root(tmp_path.as_uri())] == ["ok", "ok"]


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 500)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_tracking_server_is_checked_by_a_request(monkeypatch):
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        uri = f"http://127.0.0.1:{server.server_port}"
        assert doctor.tracking(uri).state == "ok"
        assert doctor.tracking(f"{uri}/wrong").found.endswith("answers 500")
        server.shutdown()
        thread.join()
    assert doctor.tracking(uri).state == "fail"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert "docs/cluster.md" in doctor.tracking().advice


def test_a_local_tracking_store_is_not_asked():
    assert doctor.tracking("sqlite:////tmp/mlflow.db").state == "ok"
    assert "SQLite" in doctor.tracking().found


def test_a_program_that_only_tests_need_is_a_warning_with_its_package(nowhere):
    for program in ("chromium", "nginx", "openssl"):
        (nowhere / program).touch(mode=0o755)
    found = doctor.programs_of_tests()
    assert found.state == "warn" and found.found == "no chromedriver, systemd-analyze"
    assert found.advice == "only tests need these; apt-get install chromium-driver systemd"
    for program in ("chromedriver", "systemd-analyze"):
        (nowhere / program).touch(mode=0o755)
    assert doctor.programs_of_tests().state == "ok"
