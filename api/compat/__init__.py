"""HTTP dialects of other services, so that their clients connect unchanged.

`MILLRACE_COMPAT` names the dialects that are served. Each module translates requests and answers of one
dialect. What happens in between is the same for all of them and for /predict: caches, single flight, budgets,
limits and metrics.
"""
