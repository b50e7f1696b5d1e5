"""Passages to train on: made of concise answers, or written by a language model."""
