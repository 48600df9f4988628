"""Partitions: a service and its Redis servers on a network whose links are cut, each direction by itself."""
