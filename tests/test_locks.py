"""Each lock holds what pyproject.toml asks for, for every Python that it was resolved for, and no two wheels that own the same module."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {
    "requirements.lock": ("cpu", "dev", "sentence-transformers", "traces"),
    "locks/gpu.lock": ("gpu", "sentence-transformers", "traces", "mteb"),
    "locks/gpu-cuda13.lock": ("gpu-cuda13", "sentence-transformers", "traces", "mteb"),
    "locks/vllm.lock": ("gpu", "vllm"),
}
PYTHONS = ("3.11", "3.12", "3.13")


def environment(python: str) -> dict[str, str]:
    here = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_python_implementation": "CPython"}
    return default_environment() | here | {"python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython"}


def pins(lock: str, python: str) -> dict[str, Version]:
    """The packages that the lock installs, by name; fails where a line is no pin, or a name is pinned twice."""
    found: dict[str, Version] = {}
    for line in (ROOT / lock).read_text().splitlines():
        pin = Requirement(line)
        if pin.marker is not None and not pin.marker.evaluate(environment(python)):
            continue
        (specifier,) = pin.specifier
        name = canonicalize_name(pin.name)
        assert specifier.operator == "==" and name not in found, line
        found[name] = Version(specifier.version)
    return found


def asked(extras: tuple[str, ...], python: str) -> list[Requirement]:
    """The requirements of the project and some of its extras."""
    lines = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    return [each for each in map(Requirement, lines) if each.marker is None or each.marker.evaluate(environment(python))]


def lacks(lock: str, extras: tuple[str, ...], python: str) -> list[str]:
    """The requirements that the lock has no fitting pin for."""
    held = pins(lock, python)
    wanted = asked(extras, python)
    return [str(each) for each in wanted if (at := held.get(canonicalize_name(each.name))) is None or not each.specifier.contains(at)]


def test_every_extra_is_in_a_lock_and_every_lock_is_known():
    assert {extra for extras in LOCKS.values() for extra in extras} == set(PROJECT["optional-dependencies"])
    assert {str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.lock"), *ROOT.glob("locks/*"))} == set(LOCKS)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(("lock", "extras"), LOCKS.items())
def test_every_requirement_is_pinned_within_its_bounds(lock, extras, python):
    assert lacks(lock, extras, python) == []


def test_a_lock_that_does_not_fit_is_found_out():
    assert lacks("requirements.lock", ("gpu",), "3.11") == ["faiss-gpu>=1.15"]
    assert lacks("locks/gpu.lock", ("cpu",), "3.12") == ["faiss-cpu>=1.12"]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS)
def test_one_faiss_is_in_each(lock, python):
    assert len([name for name in pins(lock, python) if name.startswith("faiss")]) == 1


def test_nothing_of_cuda_is_for_machines_without():
    assert [name for name in pins("requirements.lock", "3.11") if re.match("nvidia|cuda|triton", name)] == []


@pytest.mark.parametrize("python", PYTHONS)
def test_a_gpu_runs_the_versions_that_the_tests_ran(python):
    """But for what CUDA 13.2 and vLLM force."""
    tested = pins("requirements.lock", python)
    forced = {"locks/gpu.lock": set(), "locks/gpu-cuda13.lock": {"torch"}, "locks/vllm.lock": {"fastapi", "numpy", "setuptools"}}
    for lock, others in forced.items():
        held = pins(lock, python)
        assert {name for name in held.keys() & tested.keys() if held[name] != tested[name]} <= others


def test_the_mteb_that_the_tests_run_is_that_of_the_locks():
    """It is beside the environment, where no lock names it."""
    line = re.search(r"--target \.venv/mteb (.*?)\n\t@touch", (ROOT / "Makefile").read_text(), re.DOTALL)
    beside = {canonicalize_name(pin.name): pin for pin in map(Requirement, re.findall(r'"([^"]+)"', line[1] if line else ""))}
    held = pins("locks/gpu.lock", "3.11")
    assert "mteb" in beside and all(pin.specifier.contains(held[name]) for name, pin in beside.items())
    (extra,) = map(Requirement, PROJECT["optional-dependencies"]["mteb"])
    assert held.keys() >= beside.keys() and extra.specifier.contains(held["mteb"])
