"""Corpus formats, a module each; rows.py documents the functions that such a module has."""
