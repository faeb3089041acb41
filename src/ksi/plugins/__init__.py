"""Built-in services on the public hooks, one file or folder each."""
