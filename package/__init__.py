"""Mirepoix: the whole life of a universal multimodal retriever, on Ray."""
