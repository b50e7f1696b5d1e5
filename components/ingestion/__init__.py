"""Corpora of any known format into the canonical corpus."""
