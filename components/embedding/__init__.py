"""Embedding items, vectors on disk, and the index that is built from them."""
