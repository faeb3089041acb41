"""Sandboxes: a directory for each agent, and commands that run in it and reach nothing else."""
