"""Ingestion: reads corpora of any supported format into the canonical corpus."""
