"""The DAG, its runner, its recipes and the command line; it imports all other layers, and none imports it."""
