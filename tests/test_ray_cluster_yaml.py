"""The cluster file is one that Ray's launcher takes, and it keeps the cluster shut, shared and bounded."""

import copy
import re
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def config() -> dict:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def started(commands: list[str]) -> list[str]:
    """The words of the one `ray start` among some commands, with the variables before it."""
    (command,) = [each for each in commands if "ray start" in each]
    return shlex.split(command.replace(";", " ; "))


def test_ray_takes_the_file(config):
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"head", "cpu", "gpu"}


def test_the_check_would_find_a_misspelt_key(config):
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config(config | {"max_worker": 3}))


def test_the_head_does_no_work(config):
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in started(config["head_start_ray_commands"])


def test_the_worker_groups_grow_from_nothing_to_a_bound_and_idle_nodes_end(config):
    groups = {name: group for name, group in config["available_node_types"].items() if name != config["head_node_type"]}
    assert all(group["min_workers"] == 0 < group["max_workers"] for group in groups.values())
    assert sum(group["max_workers"] for group in groups.values()) == config["max_workers"]
    assert 0 < config["idle_timeout_minutes"] <= 30
    assert config["provider"]["cache_stopped_nodes"] is False


def test_gpu_nodes_have_an_image_of_their_own(config):
    images = {config["docker"]["image"], config["available_node_types"]["gpu"]["docker"]["worker_image"]}
    assert len(images) == 2


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_node_asks_for_the_token_and_knows_the_shared_storage(config, commands):
    words = started(config[commands])
    (token,) = config["file_mounts"]
    assert {"RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN_PATH={token}", "MIREPOIX_STORAGE=/shared/mirepoix"} <= set(words)
    assert f"chmod 600 {token}" in config["setup_commands"]


def test_dashboard_and_tracking_server_listen_on_the_head_alone(config):
    assert "--dashboard-host=127.0.0.1" in started(config["head_start_ray_commands"])
    (tracking,) = [each for each in config["head_start_ray_commands"] if "mlflow server" in each]
    assert "--host 127.0.0.1" in tracking
    assert "0.0.0.0" not in (ROOT / "ray_cluster.yaml").read_text()


def test_the_shared_folder_is_mounted_on_the_machine_and_in_the_container(config):
    assert any("mount -t nfs4" in command and "/shared" in command for command in config["initialization_commands"])
    assert "--volume /shared:/shared" in config["docker"]["run_options"]


def test_head_and_workers_find_each_other(config):
    assert "--port=6379" in started(config["head_start_ray_commands"])
    assert "--address=$RAY_HEAD_IP:6379" in started(config["worker_start_ray_commands"])
    assert any(word.startswith("--autoscaling-config=") for word in started(config["head_start_ray_commands"]))


def test_every_command_is_valid_shell(config):
    names = ["initialization_commands", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands"]
    for command in [each for name in names for each in config[name]]:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert checked.returncode == 0, (command, checked.stderr)


def test_what_must_be_changed_is_marked(config):
    lines = (ROOT / "ray_cluster.yaml").read_text().splitlines()
    marked = "\n".join(
        f"{before}\n{line}" for before, line in zip(["", *lines], lines, strict=False) if "CHANGE" in line or "CHANGE" in before
    )
    for place in ("123456789012", "fs-0123456789abcdef0", "region:"):
        assert all(line in marked for line in lines if place in line)


def test_the_guide_names_the_commands_and_files_that_are_there(config):
    guide = (ROOT / "docs" / "cluster.md").read_text()
    for words in (
        "ray up ray_cluster.yaml",
        "ray dashboard ray_cluster.yaml",
        "mirepoix submit",
        "ray down ray_cluster.yaml",
        "RAY_AUTH_MODE=token",
    ):
        assert words in guide
    for path in re.findall(r"\]\(([^)#:]+)\)", guide):
        assert (ROOT / "docs" / path).exists(), path
