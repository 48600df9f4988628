"""The queue, its clients and the workers that serve it.

- `core` is the Redis side of the queue: keys, Lua scripts, `commands` and connections.
- `hub` runs in API and job processes. The hub keeps the `pending` entries; its `dispatcher` enqueues them
  within the limits of `admission`.
- `worker` claims entries and returns results (`exchange`), selects those that share a batch (`batching`)
  and runs the model (`inference`). Its main loop is in `loop`.
- `jobs` runs jobs, which are clients of the same queue.

The modules at the top level are shared by these packages.
"""
