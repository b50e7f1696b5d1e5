"""The DAG, its runner, its recipes and the command line; imports everything, imported by nobody."""
