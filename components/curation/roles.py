"""Roles of rows against leakage, and which roles are compared."""

import numpy as np
import numpy.typing as npt

CANDIDATE, ANSWER, TRAINING, HELD_OUT = range(4)
"""Roles of rows: candidate, candidate that answers a held-out query, training query or triple, held-out query or triple."""


def compared_roles(leakage: str) -> npt.NDArray[np.bool_]:
    """A matrix over pairs of roles, true where rows are compared: candidates with candidates, training with held-out rows."""
    wanted = np.zeros((4, 4), bool)
    wanted[np.ix_((CANDIDATE, ANSWER), (CANDIDATE, ANSWER))] = True
    if leakage != "off":
        wanted[TRAINING, HELD_OUT] = wanted[HELD_OUT, TRAINING] = True
    if leakage == "all":
        for one, other in ((TRAINING, ANSWER), (CANDIDATE, HELD_OUT), (ANSWER, HELD_OUT)):
            wanted[one, other] = wanted[other, one] = True
    return wanted
