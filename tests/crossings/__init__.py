"""Crossings: situations drawn by a seed, of a service, routes and events, that must keep every promise."""
