"""The canonical corpus: its parts on disk, its texts, and what is held out for evaluation."""
