"""The command `init`: looks at a folder, and proposes a config for it."""
