"""The command people type, and what it needs: starting processes, the embedded Redis, the HTTP client."""
