"""The HTTP API. It answers requests from the cache and the queue, and does not load a model."""
