"""The version, read by the package metadata and by the compile cache."""

__version__ = "0.1.0"
