"""The HTTP routes, their request bodies, the guard in front of them, the client, and the search page."""
