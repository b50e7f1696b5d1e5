"""What the process of an encoder does with requests."""
