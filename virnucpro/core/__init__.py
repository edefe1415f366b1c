"""Devices, logging, threads and caches, used by every part of a run."""
