"""Chaos: a whole mill of real processes, traffic with known answers, and a seeded schedule of accidents."""
