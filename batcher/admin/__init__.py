"""What the operator's console reads from Redis and changes there. Synchronous: call it from threads."""
