"""The verbs of the command, a file each: arguments and printing only.

Each has `add(parser)`, which declares its arguments and sets `verb`, the function that runs it and returns the exit
code. What a verb needs is imported inside it, so that `sam2edge --help` is quick and `track` runs without PyTorch.
"""

FAILED, ERROR, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141
EXIT_CODES = {
    0: "all went well",
    FAILED: "the gate of `verify`, `calibrate` or `build` failed, `doctor` found that this machine cannot track, or "
    "`label` could not do some of its items",
    ERROR: "wrong usage, or an error, which one line on stderr describes",
    INTERRUPTED: "interrupted by Ctrl-C or SIGTERM (`ui`, which ends in no other way: 0)",
    BROKEN_PIPE: "the program that read the output ended first",
}
