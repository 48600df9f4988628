"""The queue and the worker behind it.

The road of one text, module by module: `replies` (the hub of an API process) holds a place among the
`waiters`, `admission` says whether there is room, `asks` enqueues; `redis_queue` is every Redis command.
In a worker `claims` takes entries out, `collect` says which share a pass, `inference` runs it, `delivery`
brings the results back, and `worker` is the loop around these. Jobs (`job_*`) are clients of the same queue.
"""
