"""Contenders: the same propagation as each library would have it written, one file a library.

A module here has ``prepare(case, numbers, method, pass_)``, which returns a Task or raises
RefusedError; its methods are those that ``plan.py`` asks for.
"""
