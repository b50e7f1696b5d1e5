"""Items to vectors, vectors on disk, vectors to an index."""
