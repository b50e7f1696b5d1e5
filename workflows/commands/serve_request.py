"""What `serve` is asked for, read from its arguments, and the file that `serve deploy` of Ray Serve takes."""

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.serving.ray_serve.deployment import APPLICATION, BUILDER, DEPLOYMENT, LOGGING, http_options, proxy_location
from mirepoix.serving.serve_config import MIDDLEWARES, PROXY_CALLBACK, ServeConfig
from mirepoix.serving.store import absolute
from mirepoix.workflows.storage import default_storage, release_of
from mirepoix.workflows.upkeep.named import LATEST, is_name, named_release, origin


@dataclass(frozen=True)
class ServeRequest:
    """What is to be served, and where."""

    given: str  # as on the command line: a folder, the name of a run, `latest`, an alias
    storage: str
    config: ServeConfig = field(default_factory=ServeConfig)
    ray: bool = False  # on Ray Serve, on a private cluster unless an address is given
    address: str | None = None
    pause: bool = False
    show: bool = False
    rollback: bool = False

    @property
    def release(self) -> str:
        """The folder or URI that `given` names now."""
        return release_of(named_release(self.given, self.storage))

    @property
    def is_alias(self) -> bool:
        """Whether what is given may name another release tomorrow, which is then served: an alias, as `@champion`."""
        return "@" in self.given and is_name(self.given)

    @property
    def on_ray(self) -> bool:
        """Whether Ray Serve serves it."""
        return self.ray or self.address is not None


def requested(arguments: argparse.Namespace) -> ServeRequest:
    """The request of the command's arguments; Refused where they do not go together."""
    from mirepoix.workflows.config import override, read

    given, settings = arguments.release, list(arguments.overrides)
    if given and "=" in given and not Path(given).exists():  # the release was left out
        given, settings = None, [given, *settings]
    options = {"host": arguments.host, "port": arguments.port, "encoders": arguments.encoders, "traces": arguments.traces}
    if arguments.keys:
        options["keys"] = os.path.abspath(arguments.keys)
    if arguments.tiktoken:
        options["limits.tiktoken"] = os.path.abspath(arguments.tiktoken)
    settings = [f"{name}={value}" for name, value in options.items() if value is not None] + settings
    if arguments.trust_remote_code:
        settings.append("trust_remote_code=true")
    config = read(arguments.config, ServeConfig) if arguments.config else ServeConfig()
    address = arguments.address or os.environ.get("RAY_ADDRESS") or None
    if arguments.local and (arguments.ray or arguments.address):
        raise Refused("--local is without a cluster; leave it out, or --ray and --address")
    storage, given = arguments.storage or default_storage(), given or LATEST
    address = None if arguments.local else address
    if arguments.rollback and arguments.release:
        raise Refused("--rollback is to the release that was served before; leave RELEASE out, or --rollback")
    request = ServeRequest(
        given, storage, override(config, settings), arguments.ray, address, arguments.pause, arguments.open, arguments.rollback
    )
    if is_name(given) and not arguments.settings and not arguments.rollback:
        print(f"{request.release} is {origin(given)} in {storage}", flush=True)
    return request


def print_settings(request: ServeRequest) -> int:
    """Prints every setting with its value and its help, as a file that `--config` takes."""
    from mirepoix.workflows.config import describe

    print(describe(request.config), end="")
    return 0


def write_deployment(request: ServeRequest, file: Path) -> int:
    """Writes the file that `serve deploy` takes."""
    import yaml

    from mirepoix.workflows.config import jsonable

    target, config = absolute(request.release), request.config
    plain: dict[str, Any] = {
        "proxy_location": proxy_location(config),
        "http_options": http_options(config),
        "logging_config": LOGGING,
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": BUILDER,
                "args": {"config": jsonable(config)},
                "deployments": [{"name": DEPLOYMENT, "user_config": {"release": target}}],
            }
        ],
    }
    if file.exists():
        raise Refused(f"{file} is there already; give another name, or remove it")
    head = (
        "# For `serve deploy`, on a cluster whose nodes have Mirepoix and reach the release.\n"
        "# Another release here, deployed again, is a swap.\n"
        f"# The nodes are started with {PROXY_CALLBACK}={MIDDLEWARES},\n"
        "# and with MIREPOIX_API_KEY where other machines may ask.\n"
    )
    file.write_text(head + yaml.safe_dump(plain, sort_keys=False))
    print(f"{file} is written; set RAY_DASHBOARD_ADDRESS to the cluster's, and give: serve deploy {file}")
    return 0
