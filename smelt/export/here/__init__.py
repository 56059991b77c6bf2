"""What an exported network takes on this machine: the object it became and samples in; bytes and instructions out."""

from smelt.export.here.measure import Measured, measure, measure_emulated

__all__ = ["Measured", "measure", "measure_emulated"]
