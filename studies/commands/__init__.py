"""The commands of `hpm-study`, one module each: every module here that does not start with an underscore is one.

A module's function `command` has the options, by typer's annotations, and its docstring is the help. The modules are
imported whenever `hpm-study` starts, so that what takes time to import is imported in the function.
"""
