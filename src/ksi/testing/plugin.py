"""The pytest plugin: fixtures for plugin authors and for our own tests."""
