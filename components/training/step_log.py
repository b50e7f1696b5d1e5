"""What a training tells while it runs; a file of its own, so that the actor that holds it imports no torch: a hundred megabytes less."""

from collections.abc import Callable


class StepLog:
    """Tells each step once, in order: after a restart the steps since the last checkpoint are trained again, and not told again."""

    def __init__(self, report: Callable[[dict[str, float]], None]):
        self.report = report
        self.step = 0

    def tell(self, row: dict[str, float]) -> None:
        if row["step"] > self.step:
            self.step = row["step"]
            self.report(row)
