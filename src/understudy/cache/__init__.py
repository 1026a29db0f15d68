"""Stores of embeddings and audio: standard Zarr v3, written and read by whole shards.

`cache_schema.yaml` defines them; `StoreWriter` makes them, `CacheReader` reads them, `verify`
finds damage.
"""

from understudy.cache.checks import Problem, verify
from understudy.cache.identity import Track, clip_key, clip_keys
from understudy.cache.locking import lock
from understudy.cache.payload import ShardPayload
from understudy.cache.places import Place, place
from understudy.cache.reader import CacheReader
from understudy.cache.stores import clips_per_shard, find, load_index, no_index, stores
from understudy.cache.writer import StoreWriter

__all__ = [
    "CacheReader",
    "Place",
    "Problem",
    "ShardPayload",
    "StoreWriter",
    "Track",
    "clip_key",
    "clip_keys",
    "clips_per_shard",
    "find",
    "load_index",
    "lock",
    "no_index",
    "place",
    "stores",
    "verify",
]
