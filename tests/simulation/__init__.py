"""Hubs and workers on simulated time, threads and connections, in schedules that a seed draws.

python -m tests.simulation 17            runs the schedule of seed 17 and prints what happens in it
python -m tests.simulation 17 --shrink   without all that it does not need to break a promise
"""
