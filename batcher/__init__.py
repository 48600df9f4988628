"""The queue and the worker behind it."""
