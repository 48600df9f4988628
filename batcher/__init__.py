"""The queue, its clients and the workers that serve it.

- `core` is the Redis side of the queue: keys, Lua scripts, connections, and the queue as the API (`producer`)
  and the worker (`consumer`) use it.
- `hub` runs in API and job processes. The hub keeps the `pending` entries; its `dispatcher` enqueues them
  within the limits of `admission`.
- `worker` claims entries (`claimer`), selects those that share a batch (`batching`), runs the model
  (`inference`) and returns the results (`results`). Its main loop is in `loop`.
- `jobs` are clients of the same queue.

The modules at the top level are shared by these packages.
"""
