"""The graphs of stages: one retriever's, and several retrievers' side by side."""
