"""What is told before a run: of the machine, of what the config names, of the corpus."""
