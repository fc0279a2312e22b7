"""The `earshot` command: parse, call, print.

The only room that prints. Everything but typer is imported inside the command that needs it, so
that `earshot --help` answers at once; the torch wing is imported by `earshot train` alone.
"""
