"""What a training is watched by: its speed, the work that it does of what its devices could, and notes for people."""
