"""Live migration as it may happen: two machines, a guest, an operator, a network that fails.

All of it runs in one thread and in virtual time.  What happens next is chosen from a
sequence of numbers, so that the same numbers are the same story, on every Python.
"""
