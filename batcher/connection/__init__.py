"""Connections to Redis: one server, sentinels or a cluster; outages, pipelines and calls of Lua scripts."""
