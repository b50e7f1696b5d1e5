"""What a storage holds: its runs, what they need, what is kept, what is removed."""
