"""The formats of the field, a file each; what a format is, stands at the top of rows.py."""
