"""The graphs of stages: of one retriever, and of several that are compared."""
