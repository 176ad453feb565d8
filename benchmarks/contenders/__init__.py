"""Contenders: the same propagation as each library would have it written, one file a library.

A module here has ``METHODS`` (its ways to do it) and ``prepare(case, numbers, method, pass_)``,
which returns a Task or raises RefusedError.
"""
