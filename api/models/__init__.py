"""The models that a service serves: routes by name, and a queue for each."""
