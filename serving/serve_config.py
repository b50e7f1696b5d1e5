"""The settings of a served release."""

from dataclasses import dataclass

from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.serving.http.limits_config import Limits


@dataclass(frozen=True)
class ServeConfig:
    """Where a release is served, by how many replicas, and the limits of a request.

    The result of the stage `deploy` is an endpoint that runs as it was asked for, so all of this decides it but the patience at its start.
    """

    host: str = option("127.0.0.1", "address to listen at; one that other machines reach needs a key")
    port: int = option(8000, "port to listen at; 0: that of the cluster's Serve if it runs already, else any free one")
    encoders: int = option(1, "encoder replicas")
    indexes: int = option(1, "index replicas, each with the whole index")
    ingresses: int = option(1, "ingress replicas")
    encoder_cpus: float = option(1.0, "CPUs of an encoder replica")
    encoder_gpus: float = option(0.0, "GPUs of an encoder replica")
    batch_size: int = option(32, "most items per batch")
    batch_wait_s: float = option(0.005, "seconds that an item waits for its batch to fill")
    start_timeout_s: float = option(300.0, "seconds to wait for the server to answer after its start", decides=False)
    trust_remote_code: bool = option(False, "serve a release whose encoder runs code that its checkpoint brought; read it first")
    traces: str | None = option(None, "address of an OpenTelemetry collector; null: OTEL_EXPORTER_OTLP_ENDPOINT, or none", decides=False)
    limits: Limits = option(Limits, "limits of one request")

    def __post_init__(self) -> None:
        for name in ("encoders", "indexes", "ingresses", "batch_size"):
            if getattr(self, name) < 1:
                raise Refused(f"{name} is {getattr(self, name)}; give 1 or more")
        if not 0 <= self.port < 65536:
            raise Refused(f"port is {self.port}; give one from 1 to 65535, or 0 for any free one")
