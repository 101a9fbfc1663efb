"""The tensor core's arithmetic, bit for bit."""
