"""The settings of a served release."""

from dataclasses import dataclass

from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.serving.engine.batch_config import BatchConfig
from mirepoix.serving.http.limits_config import Limits

PROXY_CALLBACK, MIDDLEWARES = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "mirepoix.serving.ray_serve.middleware:middlewares"
"""The environment variable that names our middleware to Ray Serve's HTTP proxy, and its value; a cluster has it before Serve starts."""


@dataclass(frozen=True)
class ServeConfig:
    """Where a release is served, by how many encoders, and the limits of a request.

    The result of the stage `deploy` is an endpoint that runs as it was asked for, so all of this decides it but the patience at its start.
    """

    host: str = option("127.0.0.1", "address to listen at; one that other machines reach needs a key")
    port: int = option(8000, "port to listen at; 0: that of the cluster's Serve if it runs already, else any free one")
    encoders: int = option(1, "encoders: replicas on Ray Serve, each with the app and the index; child processes on one machine")
    most_encoders: int = option(0, "on Ray Serve: replicas that are added under load, up to so many; 0: as many as `encoders`")
    ongoing: float = option(8.0, "with `most_encoders`: requests at once for each replica, above which one is added")
    encoder_cpus: float = option(1.0, "CPUs of an encoder, and threads it computes with")
    encoder_gpus: float = option(0.0, "on Ray Serve: GPUs of an encoder; on one machine each encoder takes a GPU where there is one")
    batch: BatchConfig = option(BatchConfig, "batches, and the longest times in the queue")
    start_timeout_s: float = option(300.0, "seconds to wait for the server to answer after its start", decides=False)
    keys: str = option("", "file of keys that requests may carry, which `mirepoix keys` writes; MIREPOIX_API_KEY is one more")
    trust_remote_code: bool = option(False, "serve a release whose encoder runs code that its checkpoint brought; read it first")
    traces: str | None = option(None, "address of an OpenTelemetry collector; null: OTEL_EXPORTER_OTLP_ENDPOINT, or none", decides=False)
    limits: Limits = option(Limits, "limits of one request")

    def __post_init__(self) -> None:
        if self.encoders < 1:
            raise Refused(f"encoders is {self.encoders}; give 1 or more")
        if self.most_encoders and self.most_encoders < self.encoders:
            raise Refused(f"most_encoders is {self.most_encoders} and encoders {self.encoders}; give as many or more, or 0")
        for name in ("ongoing", "encoder_cpus"):
            if not getattr(self, name) > 0:
                raise Refused(f"{name} is {getattr(self, name):g}; give more than 0")
        if not 0 <= self.port < 65536:
            raise Refused(f"port is {self.port}; give one from 1 to 65535, or 0 for any free one")

    @property
    def threads(self) -> int:
        """Threads that an encoder computes with."""
        return max(1, round(self.encoder_cpus))

    @property
    def url(self) -> str:
        """The address of the server on its own machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
