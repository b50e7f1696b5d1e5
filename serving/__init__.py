"""Published folders with manifests, indexes, releases, and the HTTP endpoint that serves them."""
