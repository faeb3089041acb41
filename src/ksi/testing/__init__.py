"""Harness, virtual clock, contracts and the pytest plugin."""
