"""What is told before a stage runs: of the machine, of what the config names, and of the corpus."""
