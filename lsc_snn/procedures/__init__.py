"""Procedures that bring a model to its target: ``fast``, ours, and ``paper``, the published one."""
