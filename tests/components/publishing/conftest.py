from tests.models.adopted.layouts import bert, layout, own
from tests.models.conftest import twin

__all__ = ["bert", "layout", "own", "twin"]
