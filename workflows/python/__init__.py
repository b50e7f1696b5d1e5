"""What `import mirepoix` gives to a Python program."""
