"""The log: backends, views, checkpoints and verification."""
