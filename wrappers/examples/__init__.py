"""Runnable examples of the API, which the tests run too."""
