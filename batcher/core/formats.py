"""Warns if workers of another version serve the same name with another format of data (decision 0019)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from batcher.connection.outage import REDIS_ERRORS, refused
from batcher.connection.pipeline import Pipeline
from batcher.connection.redis_url import is_cluster
from batcher.shards import FORMAT, Shard, hash_tag

log = logging.getLogger(__name__)


class OtherFormats:
    """Workers of the queue of one shard that keep their data in another format than this process."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._keys = keys

    @classmethod
    def of(cls, shard: Shard) -> OtherFormats:
        """Watches the previous and the next format; nothing in a cluster, where other nodes may have them."""
        tags = [] if is_cluster(shard.url) else [hash_tag(shard.name, FORMAT + step) for step in (-1, 1)]
        return cls([f"{tag}:workers" for tag in tags])

    async def look(self, pipeline: Pipeline) -> None:
        """Logs one warning if there are live workers of those. Raises REDIS_ERRORS."""
        try:
            live = [
                await pipeline.execute("ZCOUNT", key, int(time.time() * 1000), "+inf") for key in self._keys
            ]
        except REDIS_ERRORS as error:
            if not refused(error):
                raise
            return  # the Redis user may only use the keys of this format
        if any(live):
            log.warning(
                "workers of another version serve this MILLRACE_NAME with another format of data: this "
                "version shares no queue, cache or jobs with them and needs its own (docs/upgrading.md)",
                extra={"action": "format.other", "format": FORMAT, "workers": sum(live)},
            )
