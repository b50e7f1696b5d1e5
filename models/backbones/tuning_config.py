"""Which towers of an encoder are trained, in full or through low-rank adapters."""

from collections.abc import Iterable
from dataclasses import dataclass

from mirepoix.models.errors import Refused
from mirepoix.models.options import option


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on every linear layer of the towers that are trained."""

    rank: int = option(8, "rank of the adapters")
    alpha: int = option(16, "scale of the adapters, over the rank")
    dropout: float = option(0.05, "dropout in front of the adapters")

    def __post_init__(self) -> None:
        for name in ("rank", "alpha"):
            if not getattr(self, name) >= 1:
                raise Refused(f"lora.{name} is {getattr(self, name)}; give 1 or more")
        if not 0 <= self.dropout < 1:
            raise Refused(f"lora.dropout is {self.dropout}; give a share from 0 to below 1")


@dataclass(frozen=True)
class Tuning:
    """Which towers a stage trains, and how; a retriever whose stages have more settings has a subclass."""

    towers: tuple[str, ...] = option(("language",), "towers that are trained; the others are frozen")
    lora: Lora | None = option(Lora, "train adapters on them; null: all their weights")


def tuning_problem(tuning: Tuning, towers: Iterable[str], kind: type[Tuning] = Tuning) -> str | None:
    """The reason why a tuning does not fit an encoder with these towers and this class of tuning; None where it fits."""
    known = list(towers)
    if type(tuning) is not kind:
        return f"it is a {type(tuning).__name__}; this retriever takes {kind.__name__}: give that"
    unknown = [name for name in tuning.towers if name not in known]
    if tuning.towers and not unknown:
        return None
    return f"towers {', '.join(unknown) or '()'} cannot be trained; this retriever has {', '.join(known)}: name one or more of them"
