"""Measurements that print how fast and how exact the engine is; see README.md."""
