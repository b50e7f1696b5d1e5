"""The canonical corpus: its parts on disk, normalisation of its texts, and the candidates that are held out for evaluation."""
