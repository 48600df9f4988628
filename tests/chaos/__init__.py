"""Chaos: a whole service of real processes, traffic with known answers, and a schedule of accidents."""
