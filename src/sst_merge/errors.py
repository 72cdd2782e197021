"""Every error that the package raises on purpose.

Each message names the file or module, what was found, what was expected and what to do; the classes only say
which part of the input is at fault, so that a caller can tell them apart.
"""

from .texts import bounded

__all__ = [
    "AdapterError",
    "BaseModelError",
    "ConfigError",
    "ConversionError",
    "DataError",
    "FisherError",
    "MergeError",
    "OptionError",
    "OutputExistsError",
    "ProcessError",
    "SSTMergeError",
    "SandboxError",
    "TrainingError",
    "UnknownMethodError",
]


class SSTMergeError(Exception):
    """Base class of all errors raised on purpose by this package.

    A message never has more than about 4,000 characters, whatever a file holds that it quotes: its middle is left out.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(bounded(str(message)))


class ConfigError(SSTMergeError, ValueError):
    """A configuration file, flag or field is wrong."""


class AdapterError(SSTMergeError, ValueError):
    """An adapter folder cannot be read exactly, or two adapters do not belong together."""


class BaseModelError(SSTMergeError, ValueError):
    """The base model is missing, or an adapter does not fit it."""


class ConversionError(SSTMergeError, ValueError):
    """An adapter cannot be written exactly in the form that was asked for."""


class DataError(SSTMergeError, ValueError):
    """A data set is missing, empty, or lacks a field."""


class FisherError(SSTMergeError, ValueError):
    """Fisher statistics are not finite, not symmetric, empty, or do not belong together."""


class MergeError(SSTMergeError, ValueError):
    """A merge cannot be carried out as asked."""


class UnknownMethodError(MergeError):
    """No merge method of that name is registered."""


class OptionError(MergeError):
    """An option of a merge method is unknown or out of range."""


class OutputExistsError(SSTMergeError, FileExistsError):
    """The output exists already and may not be overwritten."""


class ProcessError(SSTMergeError, RuntimeError):
    """Another process of the same run failed, ended, or does other work."""


class SandboxError(SSTMergeError, RuntimeError):
    """Code that a model wrote may not be run, or cannot be run safely here."""


class TrainingError(SSTMergeError, RuntimeError):
    """A training went wrong while it ran."""
