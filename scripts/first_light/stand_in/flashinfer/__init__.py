"""Stands in for the peer in a rehearsal."""

__version__ = "a stand-in"
