"""A private cluster leaves the host as it found it, and a shared one is joined or refused in seconds."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import ray

from mirepoix.workflows.cluster import ray_cluster as cluster
from mirepoix.workflows.cluster.ray_cluster import PREFIX, connect, environment, sweep
from mirepoix.workflows.cluster.shipped_code import LAYERS, code_root, stage_code
from mirepoix.workflows.storage import JOB_VARIABLE, default_storage
from tests.workflows.cluster.ray_heads import Head, plain_environment, processes_of, wait_until_gone

ROOT = Path(__file__).parents[3]


def driver(code: str, home: Path, **variables: str) -> subprocess.Popen:
    """A process of its own that runs some code, with a home of its own and no Ray cluster in its environment."""
    home.mkdir(exist_ok=True)
    env = plain_environment() | {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


UP = """
    import os, sys, json, ray
    from pathlib import Path
    from mirepoix.workflows.cluster.ray_cluster import private_cluster
    before = dict(os.environ)
    with private_cluster(num_cpus=2) as address:
        folder = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent
        print(folder, flush=True)
"""


def started_folder(process: subprocess.Popen) -> Path:
    """The private folder of a driver, once its cluster is up."""
    folder = Path(process.stdout.readline().strip())
    assert folder.name.startswith(PREFIX), process.communicate(timeout=20)
    return folder


def wait_until_removed(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while folder.exists():
        assert time.monotonic() < deadline, list(folder.rglob("*"))[:5]
        time.sleep(0.1)


def is_janitor(pid: str) -> bool:
    return "janitor.py" in Path(f"/proc/{pid}/cmdline").read_text()


def daemons_of(head: Head) -> set[int]:
    """The processes of a head that live as long as it does: GCS, dashboard and raylet, which on a busy machine starts after the job server.

    A process that a daemon has just forked has the daemon's command for a moment, so two looks have to agree.
    """

    def seen() -> set[int]:
        return {pid for pid, command in processes_of(head.folder).items() if "/ray/core/src/ray/" in command or "/dashboard.py" in command}

    deadline, found, last = time.monotonic() + 30, seen(), set()
    while (len(found) < 3 or found != last) and time.monotonic() < deadline:
        time.sleep(0.5)
        found, last = seen(), found
    return found


@pytest.fixture(scope="module")
def used(job_head, tmp_path_factory):
    """What a driver saw of its private cluster, beside another cluster on the same host, and what was left of both."""
    home = tmp_path_factory.mktemp("home")
    others = daemons_of(job_head)
    process = driver(
        UP
        + """
        import stat, subprocess
        from mirepoix.workflows.cluster.janitor import MARK
        task = ray.remote(lambda: (__import__("mirepoix.models.item").models.item.__file__, os.getpid()))
        child = "import os, ray; ray.init(logging_level='error'); print(ray.get_runtime_context().gcs_address)"
        print(json.dumps({
            "address": address,
            "variable": os.environ["RAY_ADDRESS"],
            "task": ray.get(task.remote()),
            "cpus": ray.cluster_resources()["CPU"],
            "nodes": len(ray.nodes()),
            "modes": [stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE((folder / "token").stat().st_mode)],
            "child": subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout.strip(),
            "marked": MARK in os.environ,
            "proxy": ray.get(ray.remote(lambda: [
                os.environ[name] for name in ("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "RAY_SERVE_PROXY_USE_GRPC")
            ]).remote()),
            "ray_home": ray._private.worker._global_node.get_session_dir_path(),
        }))
    ray_variables = lambda each: {k: v for k, v in each.items() if k.startswith("RAY_A") or k in ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED")}
    print(json.dumps([ray_variables(before) == ray_variables(os.environ), ray.is_initialized(), folder.exists()]))
    with private_cluster(num_cpus=1) as address:
        print(json.dumps(ray.get(ray.remote(lambda: "again").remote())))
    """,
        home,
        RAY_ADDRESS="http://elsewhere:8265",
        RAY_AUTH_MODE="disabled",
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    folder, seen, after, again = out.splitlines()
    return {
        "folder": Path(folder),
        "seen": json.loads(seen),
        "after": json.loads(after),
        "again": again,
        "err": err,
        "home": home,
        "others": (others, daemons_of(job_head)),
    }


def test_tasks_import_our_code_from_whatever_folder_the_driver_was_started_in(used):
    assert Path(used["seen"]["task"][0]) == ROOT / "models" / "item.py"


def test_children_of_the_driver_find_the_cluster_by_its_address_and_token(used):
    assert used["seen"]["address"] == used["seen"]["variable"] == used["seen"]["child"]


def test_the_cluster_has_one_node_and_the_cpus_it_was_given(used):
    assert (used["seen"]["cpus"], used["seen"]["nodes"]) == (2, 1)


def test_serve_on_it_has_a_minute_to_start_its_proxy(used):
    assert used["seen"]["proxy"] == ["60", "1"]


def test_only_its_user_may_enter_its_folder_and_read_its_token(used):
    assert used["seen"]["modes"] == [0o700, 0o600]
    assert used["folder"].name.startswith(PREFIX)
    assert Path(used["seen"]["ray_home"]).is_relative_to(used["folder"])


def test_the_token_of_the_user_is_neither_read_nor_written(used):
    assert not (used["home"] / ".ray").exists()


def test_the_environment_comes_back_and_folder_and_processes_go(used):
    same_environment, still_initialized, folder_left = used["after"]
    assert same_environment and not still_initialized and not folder_left
    assert not processes_of(used["folder"])


def test_a_second_cluster_follows_the_first_in_the_same_process(used):
    assert used["again"] == '"again"'


def test_a_cluster_that_was_there_before_is_not_disturbed(used):
    before, after = used["others"]
    assert len(before) >= 3 and before <= after


def test_it_prints_nothing(used):
    assert used["err"] == ""


def test_nothing_survives_a_killed_driver(tmp_path: Path):
    process = driver(UP + "        import time; time.sleep(60)\n", tmp_path / "home")
    folder = started_folder(process)
    assert len(processes_of(folder)) > 4
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(f"gone after {wait_until_gone(folder, 10):.1f} s")
    wait_until_removed(folder)


def test_what_a_killed_driver_and_a_killed_janitor_leave_is_cleared_by_the_next(tmp_path: Path):
    process = driver(UP + "        import time; time.sleep(60)\n", tmp_path / "home")
    folder = started_folder(process)
    (janitor,) = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() if is_janitor(pid)]
    os.kill(janitor, signal.SIGKILL)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "token").exists()
    assert folder in sweep()
    assert not folder.exists() and not processes_of(folder)


def test_a_child_of_the_driver_is_not_taken_for_a_part_of_the_cluster(used):
    assert used["seen"]["marked"] is False


def test_a_terminated_driver_cleans_up_itself(tmp_path: Path):
    process = driver(UP + "        import time; time.sleep(60)\n", tmp_path / "home")
    folder = started_folder(process)
    process.terminate()
    process.communicate(timeout=30)
    wait_until_gone(folder, 20)
    assert not folder.exists()


@pytest.fixture
def temporary_root(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(cluster, "_short_temporary_root", lambda: tmp_path)
    return tmp_path


def test_a_folder_of_a_running_driver_is_not_swept(temporary_root: Path):
    folder, held = cluster._new_folder()
    assert sweep() == [] and folder.exists()
    os.close(held)
    assert sweep() == [folder] and not folder.exists()


def test_a_folder_that_is_just_being_made_is_not_swept(temporary_root: Path):
    (temporary_root / f"{PREFIX}new").mkdir()
    assert sweep() == []


def test_what_is_not_ours_is_not_swept(temporary_root: Path, tmp_path_factory):
    precious = tmp_path_factory.mktemp("precious")
    (precious / "lock").touch()
    (temporary_root / f"{PREFIX}link").symlink_to(precious)
    (temporary_root / "ray").mkdir()
    (temporary_root / "ray" / "lock").touch()
    assert sweep() == []
    assert (precious / "lock").exists() and (temporary_root / "ray" / "lock").exists()


def test_a_sweep_that_was_cut_short_is_finished_by_the_next(temporary_root: Path):
    folder, held = cluster._new_folder()
    os.close(held)
    (folder / "ray").mkdir()
    (folder / "ray" / "big").write_bytes(b"0" * 1000)
    (folder / "token").touch()
    assert sweep() == [folder]
    assert not folder.exists()


def test_a_temporary_folder_too_deep_for_socket_names_is_not_used(tmp_path: Path, monkeypatch):
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: str(deep))
    assert cluster._short_temporary_root() == Path("/tmp")


SLOW = """
    import json, os, types, time, ray
    from pathlib import Path
    from ray._private import node, services
    from mirepoix.workflows.cluster.ray_cluster import private_cluster
    from mirepoix.workflows.cluster.janitor import processes
    seen, tries, real = {}, [], services.get_node

    def get_node(address, id):
        "Ray's own, which in the first try does not find the node that it waits for."
        tries.extend([id] if id not in tries else [])
        if len(tries) == 1:
            seen[id] = processes(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent)
            raise RuntimeError("not there")
        return real(address, id)

    services.get_node = get_node
    node.time = types.SimpleNamespace(**{**vars(time), "monotonic": lambda: 100 * time.monotonic()})  # 30 s pass in 0.3
    with private_cluster(num_cpus=1) as address:
        left = [pid for pids in seen.values() for pid in pids if os.path.exists(f"/proc/{pid}/fd/0")]
        result = {"answer": ray.get(ray.remote(lambda: 7).remote()), "left": left}
    print(json.dumps(result | {"tries": len(tries), "started": [len(pids) for pids in seen.values()]}))
"""


def slowly(home: Path, code: str) -> tuple[dict, list[str]]:
    """What a driver prints whose Ray starts too slowly at first, and the lines that it writes to standard error."""
    home.mkdir(exist_ok=True)
    env = plain_environment() | {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=home, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), [line for line in done.stderr.splitlines() if "Ray did not start" in line or "Traceback" in line]


def test_a_start_that_ray_gives_up_is_tried_again_and_its_processes_do_not_stay(tmp_path):
    printed, lines = slowly(tmp_path / "home", SLOW)
    assert (printed["answer"], printed["tries"], printed["left"]) == (7, 2, [])
    assert printed["started"][0] >= 2, "the first try had processes up"
    (line,) = lines
    assert line.startswith("Ray did not start (The current node timed out during startup); the load average is ")
    assert line.endswith(" CPUs; trying again, 2 of 3")


def test_a_start_that_never_succeeds_is_refused_in_one_line_and_leaves_nothing(tmp_path):
    printed, lines = slowly(
        tmp_path / "home",
        """
        import json, os, ray
        from pathlib import Path
        from mirepoix.workflows.cluster.ray_cluster import private_cluster
        folders = []
        def init(**given):
            folders.append(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent)
            raise Exception("The current node timed out during startup. This could happen because some of the raylet processes failed")
        ray.init = init
        try:
            with private_cluster():
                pass
        except ValueError as refused:
            print(json.dumps({"refused": str(refused), "tries": len(folders), "left": [str(each) for each in folders if each.exists()]}))
        """,
    )
    assert (printed["tries"], printed["left"]) == (3, [])
    assert [line.rpartition("; ")[2] for line in lines] == ["trying again, 2 of 3", "trying again, 3 of 3"]
    assert printed["refused"].startswith("Ray did not start in 3 tries (The current node timed out during startup); the load average is ")
    assert printed["refused"].endswith(
        "run the same command again when the machine is less busy, or give --address or RAY_ADDRESS of a cluster that is up"
    )
    assert "\n" not in printed["refused"]


def test_what_is_no_slow_start_is_not_tried_again(tmp_path):
    printed, lines = slowly(
        tmp_path / "home",
        """
        import json, ray
        from mirepoix.workflows.cluster.ray_cluster import private_cluster
        tries = []
        def init(**given):
            tries.append(given)
            raise ValueError("object_store_memory is too large")
        ray.init = init
        try:
            with private_cluster():
                pass
        except ValueError as error:
            print(json.dumps({"error": str(error), "tries": len(tries)}))
        """,
    )
    assert printed == {"error": "object_store_memory is too large", "tries": 1} and lines == []


def test_an_environment_is_restored_whatever_happens(monkeypatch):
    monkeypatch.setenv("MX_A", "old")
    monkeypatch.delenv("MX_B", raising=False)
    with pytest.raises(KeyError), environment(MX_A=None, MX_B="new"):
        assert "MX_A" not in os.environ and os.environ["MX_B"] == "new"
        raise KeyError
    assert os.environ["MX_A"] == "old" and "MX_B" not in os.environ


CONNECT = """
    import json, sys, time, ray
    from mirepoix.workflows.cluster.ray_cluster import authentication, connect
    for arguments, variables in json.loads(sys.argv[1]):
        start = time.monotonic()
        try:
            with authentication(**variables), connect(*arguments) as address:
                imported = ray.get(ray.remote(lambda: __import__("mirepoix.models.item").models.item.__file__).remote())
            print(json.dumps([address, imported]))
        except ValueError as error:
            print(json.dumps([time.monotonic() - start, str(error)]))
"""


def connected(home: Path, *cases: tuple[list[str], dict[str, str]]) -> list[tuple]:
    """What becomes of connecting with some arguments and variables, one after the other in one process."""
    env = plain_environment() | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(CONNECT), json.dumps(cases)]
    found = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=100)
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_a_driver_joins_a_cluster_by_its_address_and_its_workers_import_the_code_it_ships(ray_cluster, tmp_path: Path):
    own = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
    cases = [([ray_cluster], own | {"RAY_ADDRESS": "127.0.0.1:9"}), ([], own | {"RAY_ADDRESS": ray_cluster})]
    for address, imported in connected(tmp_path, *cases):
        assert address == ray_cluster
        assert "_ray_pkg_" in imported


def test_a_wrong_or_missing_token_is_refused_in_seconds_and_the_variables_are_named(ray_cluster, tmp_path: Path):
    variables = [
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/nonexistent"},
        {"RAY_AUTH_MODE": "disabled"},
        {},
    ]
    refusals = connected(tmp_path, *[([ray_cluster], each) for each in variables])
    assert len(refusals) == len(variables)
    for seconds, refusal in refusals:
        assert seconds < 10
        assert "RAY_AUTH_TOKEN" in refusal and "\n" not in refusal


def test_an_address_where_no_head_is_is_refused_in_seconds_and_so_is_none(tmp_path: Path):
    expected = {
        "127.0.0.1:9": "no Ray head answers at '127.0.0.1:9'",
        "no-such-host.invalid:6379": "no Ray head answers",
        "http://127.0.0.1:8265": "mirepoix submit",
        "ray://127.0.0.1:10001": "HOST:6379",
        None: "give --address HOST:6379 or set RAY_ADDRESS",
    }
    for words, (seconds, refusal) in zip(expected.values(), connected(tmp_path, *[([each], {}) for each in expected]), strict=True):
        assert seconds < 10 and words in refusal


def test_the_cluster_that_this_process_uses_already_is_taken_as_it_is(ray_cluster):
    with connect() as address:
        assert address == ray_cluster
    assert ray.is_initialized()


def test_the_staged_code_is_the_layout_of_an_installed_wheel(tmp_path: Path):
    stage_code(tmp_path)
    copied = {path.relative_to(tmp_path / "mirepoix") for path in (tmp_path / "mirepoix").rglob("*.py")}
    assert copied == {Path("__init__.py"), *(path.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))}
    sources = {path: ROOT / ("mirepoix.py" if path == Path("__init__.py") else path) for path in copied}
    assert all((tmp_path / "mirepoix" / path).read_bytes() == source.read_bytes() for path, source in sources.items())


def test_the_code_root_is_where_mirepoix_is_imported_from():
    assert (code_root() / "mirepoix.py").is_file()


def test_storage_is_what_the_user_sets(monkeypatch):
    monkeypatch.setenv("MIREPOIX_STORAGE", "s3://bucket/store")
    assert default_storage() == "s3://bucket/store"


def test_storage_is_else_beside_the_user_but_never_in_the_folder_of_a_job(monkeypatch, tmp_path: Path):
    monkeypatch.delenv("MIREPOIX_STORAGE")
    monkeypatch.chdir(tmp_path)
    assert default_storage() == str(tmp_path / "storage")
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_storage() == str(tmp_path / "home" / ".mirepoix" / "storage")


def test_a_process_that_has_a_handler_of_sigterm_keeps_it_and_no_stack_trace_is_printed(tmp_path):
    """Ray installs a handler in C++ when it starts."""
    code = """
        import signal, sys, time
        from mirepoix.workflows.cluster.ray_cluster import private_cluster
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            with private_cluster(num_cpus=2):
                print("up", flush=True)
                time.sleep(60)
        finally:
            print("ended")
    """
    process = driver(code, tmp_path / "home")
    assert process.stdout.readline() == "up\n", process.communicate(timeout=20)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "ended\n") and "SIGTERM" not in err, err
