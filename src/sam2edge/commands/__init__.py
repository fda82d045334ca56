"""The verbs of the command, a file each: arguments and printing only.

Each has `add(parser)`, which declares its arguments and sets `verb`, the function that runs it and returns the exit
code. What a verb needs is imported inside it, so that `sam2edge --help` is quick and `track` runs without PyTorch.
"""

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""
BROKEN_PIPE = 141
"""Exit code when whoever read the output went away, as of a program that SIGPIPE ends."""
