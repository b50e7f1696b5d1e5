"""Texts written by a language model: prompts, engines, replies kept on disk."""
