"""The endpoint on one machine, without a cluster: the app and the index in this process, encoders in child processes."""
