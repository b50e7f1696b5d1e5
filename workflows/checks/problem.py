"""A reason for which a run cannot succeed, as it is told: what was given, what is there, what to do."""

from collections.abc import Sequence
from dataclasses import dataclass

from mirepoix.models.errors import Refused


@dataclass(frozen=True)
class Problem:
    """One line: what was given, what is there instead, what to do."""

    given: str
    there: str
    cure: str

    def __str__(self) -> str:
        return f"{self.given}, and {self.there}; {self.cure}"


class CannotSucceed(Refused):
    """A run that is refused before its first stage: a line for each reason."""

    def __init__(self, problems: Sequence[Problem]):
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type, tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)
