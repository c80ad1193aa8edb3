"""Command lines: flags, help, console output, the demo and the subcommands.

The topmost folder: it may import every other one, and none imports it.
"""
