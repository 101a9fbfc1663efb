"""Clusters while they run: warps, memory, barriers, asynchronous work; which clusters run together."""
