"""The `millrace` command line: starts processes and the embedded Redis, and includes the HTTP clients."""
