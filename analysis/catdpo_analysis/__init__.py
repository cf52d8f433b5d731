"""Around the catdpo trainer: preference data and models into HDF5, checkpoints back out, runs into reports."""

__version__ = "0.1.0"
CREATOR = f"catdpo-analysis {__version__}"
