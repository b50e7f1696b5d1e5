"""Executes a graph of stages: keys, leases, tasks, progress, tracking."""
