"""The commands of `hpm`, one module each: every module here that does not start with an underscore is one.

A package here is a group of such modules, and its docstring is the group's help. A module's function `command` has the
options, by typer's annotations, and its docstring is the help. The modules are imported whenever `hpm` starts, so that
what takes time to import is imported in the function.
"""
