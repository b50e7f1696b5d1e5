"""Commands that a module each is enough for, and no stage or check: the demonstration, a corpus rewritten in another format, and what a
checkpoint finds."""
