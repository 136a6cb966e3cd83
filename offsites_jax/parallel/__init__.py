"""Mesh, sharding rules, process start-up, ahead-of-time accounting."""
