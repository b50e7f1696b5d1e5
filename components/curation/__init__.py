"""Rules that keep or reject the rows of a corpus, merge duplicates and find leaks."""
