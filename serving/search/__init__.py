"""Indexes: dense and multi-vector by FAISS, texts by BM25, behind one search."""
