"""The sealed child process in which runs are repeated."""
