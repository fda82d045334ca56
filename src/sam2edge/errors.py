"""Every error that sam2edge raises on purpose.

    Sam2EdgeError
    ├── BundleError: MissingFileError, CorruptFileError, ForeignFileError, SchemaError
    ├── SourceError
    ├── ExportError: ParityError
    ├── EngineError: BuildError, StaleEngineError, DamagedEngineError
    ├── GateError
    ├── BackendError
    ├── MediaError
    ├── StreamError
    └── InputError (also a ValueError): FrameError, PromptError, ObjectIdError

Messages say what was wrong, what was expected and what to do.
"""


class Sam2EdgeError(Exception):
    """The base of all errors of this package."""


class BundleError(Sam2EdgeError):
    """A bundle cannot be used; the message names the file."""


class MissingFileError(BundleError):
    """The bundle directory, its manifest or a listed file does not exist."""


class CorruptFileError(BundleError):
    """A file of the bundle was truncated or edited since it was written, or is not readable."""


class ForeignFileError(BundleError):
    """A file is not part of a bundle: it is unlisted, lies outside or is another tool's manifest."""


class SchemaError(BundleError):
    """The manifest is of a newer schema, or lacks or misstates a field."""


class SourceError(Sam2EdgeError):
    """A checkpoint cannot be read or is of no known family."""


class ExportError(Sam2EdgeError):
    """A graph could not be exported."""


class ParityError(ExportError):
    """An exported graph differs from PyTorch by more than the limit."""


class EngineError(Sam2EdgeError):
    """TensorRT engines cannot be built or used; the message says what to do."""


class BuildError(EngineError):
    """An engine could not be built."""


class StaleEngineError(EngineError):
    """An engine was built from another graph, or for another TensorRT, GPU or precision."""


class DamagedEngineError(EngineError):
    """Engines or their manifest are missing, truncated or edited since they were built."""


class GateError(Sam2EdgeError):
    """The gate (docs/how-to/accuracy.md) refused masks, INT8 ranges or outputs; the message says which ones and why."""


class BackendError(Sam2EdgeError):
    """A backend or device is not available, or failed."""


class MediaError(Sam2EdgeError):
    """A video or image cannot be read or written."""


class StreamError(Sam2EdgeError):
    """A server does not know a stream, or has as many as it takes."""


class InputError(Sam2EdgeError, ValueError):
    """An argument is wrong; the call changed nothing."""


class FrameError(InputError):
    """A frame has the wrong type, shape or size."""


class PromptError(InputError):
    """A point, label, box or mask is invalid."""


class ObjectIdError(InputError):
    """An object id is unknown, duplicate or not an integer."""
