"""Additional training passages, made of concise answers (ViD2R) or written by a language model, and verbalised pictures."""
