"""The version of the package, where everybody may read it."""

__all__ = ["__version__"]

__version__ = "0.2.0"
