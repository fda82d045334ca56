"""Every error that sam2edge raises on purpose.

    Sam2EdgeError
    ├── BundleError              a bundle cannot be used; the message names the file
    │   ├── MissingFileError     the directory, its manifest or a listed file does not exist
    │   ├── CorruptFileError     truncated or edited since it was written, or not readable
    │   ├── ForeignFileError     not part of a bundle: an unlisted file, a path outside, another tool's manifest
    │   └── SchemaError          written by a newer sam2edge, or the manifest lacks or misstates a field
    ├── SourceError              a checkpoint cannot be read or is not a SAM 2
    ├── ExportError              a graph could not be written
    │   └── ParityError          a graph was written but differs from PyTorch
    ├── EngineError              TensorRT engines cannot be built or used; the message says what to do
    │   ├── BuildError           an engine could not be built
    │   ├── StaleEngineError     built from another graph, or for another TensorRT, GPU or precision
    │   └── DamagedEngineError   missing, truncated or edited since it was built
    ├── GateError                the gate refuses masks, INT8 ranges or outputs; the message says which and how far off
    ├── BackendError             a backend or device is not available, or failed
    ├── MediaError               a video or image cannot be read or written
    └── InputError (ValueError)  an argument is wrong; nothing was changed
        ├── FrameError           a frame of the wrong type, shape or size
        ├── PromptError          an invalid point, label, box or mask
        └── ObjectIdError        an object id that is unknown, duplicate or not an integer

Messages say what was wrong, what was expected and what to do.
"""


class Sam2EdgeError(Exception):
    """The base of all errors of this package."""


class BundleError(Sam2EdgeError):
    """A bundle cannot be used."""


class MissingFileError(BundleError):
    """The bundle directory, its manifest or a listed file does not exist."""


class CorruptFileError(BundleError):
    """A file of the bundle was truncated or edited since it was written."""


class ForeignFileError(BundleError):
    """A file is not part of a bundle."""


class SchemaError(BundleError):
    """The manifest is of a newer schema, or lacks or misstates a field."""


class SourceError(Sam2EdgeError):
    """A checkpoint cannot be read or is not a SAM 2."""


class ExportError(Sam2EdgeError):
    """A graph could not be exported."""


class ParityError(ExportError):
    """An exported graph differs from PyTorch by more than the limit."""


class EngineError(Sam2EdgeError):
    """TensorRT engines cannot be built or used."""


class BuildError(EngineError):
    """An engine could not be built."""


class StaleEngineError(EngineError):
    """An engine was built from another graph, or for another TensorRT, GPU or precision."""


class DamagedEngineError(EngineError):
    """Engines or their manifest are missing, truncated or edited since they were built."""


class GateError(Sam2EdgeError):
    """The gate (docs/how-to/accuracy.md) refused masks, INT8 ranges or non-finite outputs, whatever was tried."""


class BackendError(Sam2EdgeError):
    """A backend or device is not available, or failed."""


class MediaError(Sam2EdgeError):
    """A video or image cannot be read or written."""


class InputError(Sam2EdgeError, ValueError):
    """An argument is wrong; the call changed nothing."""


class FrameError(InputError):
    """A frame has the wrong type, shape or size."""


class PromptError(InputError):
    """A point, label, box or mask is invalid."""


class ObjectIdError(InputError):
    """An object id is unknown, duplicate or not an integer."""
