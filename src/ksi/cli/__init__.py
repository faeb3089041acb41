"""The `ksi` command, one file a command."""
