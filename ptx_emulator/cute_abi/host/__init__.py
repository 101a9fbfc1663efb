"""The interpreter of a CuTe DSL module's host function."""
