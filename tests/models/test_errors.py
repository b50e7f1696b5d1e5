"""An error of another library in one line of ours."""

import pytest

from mirepoix.models.errors import first_line, typed_line


@pytest.mark.parametrize(
    ("error", "line", "with_type"),
    [
        (ValueError("what\nand where"), "what", "ValueError: what"),
        (RuntimeError("\n  what\n"), "what", "RuntimeError: what"),
        (MemoryError(), "MemoryError", "MemoryError"),
        (OSError("\n"), "OSError", "OSError"),
    ],
)
def test_of_an_error_its_first_line_is_said_or_else_its_type(error, line, with_type):
    assert (first_line(error), typed_line(error)) == (line, with_type)
