"""An encoder or a release in the process of whoever uses it, without a server."""
