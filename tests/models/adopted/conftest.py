from tests.models.adopted.layouts import bert, layout, own

__all__ = ["bert", "layout", "own"]
