"""Command lines: flags, help, console output, the demo and the subcommands.

The topmost folder: it may import every other one, and none imports it.
"""

import os

if os.environ.get("COLUMNS") == "0":  # with which rich prints nothing
    del os.environ["COLUMNS"]
