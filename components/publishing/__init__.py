"""Releases of an encoder with its index: assembling, serving, export to other libraries, and model cards."""
