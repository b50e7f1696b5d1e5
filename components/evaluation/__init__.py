"""Retrieval metrics by split, task and pool, and the report."""
