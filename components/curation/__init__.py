"""Curation: rules for single rows, exact and near-duplicates, and leakage between training and held-out splits."""
