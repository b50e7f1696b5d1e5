"""Commands that a module each is enough for, and no stage or check: the demonstration, and a corpus rewritten in another format."""
