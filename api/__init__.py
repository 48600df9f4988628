"""The HTTP edge: asks the cache and the queue, answers people. Holds no model."""
