"""What is published and searched: folders with manifests, indexes, releases, and the HTTP endpoint."""
