"""The endpoint on Ray Serve: replicas behind Ray's HTTP proxy."""
