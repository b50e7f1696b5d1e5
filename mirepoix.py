"""Mirepoix: the whole life of a universal multimodal retriever, on Ray."""

from pathlib import Path as _Path

_home = _Path(__file__).resolve().parent
# An installed wheel holds the four folders in mirepoix/; a checkout, or a shipped working directory, holds them beside this file.
__path__ = [str(_home / "mirepoix" if (_home / "mirepoix").is_dir() else _home)]
