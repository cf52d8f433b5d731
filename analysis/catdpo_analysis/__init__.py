"""Around the catdpo trainer: preference data and models into HDF5, checkpoints back out, runs into reports."""

__version__ = "0.1.0"

# in the order in which one may import another: only those above it (tests/lint/test_packages.py)
PACKAGES = (
    "text",
    "files",
    "tokens",
    "models",
    "prepare",
    "engine",
    "judge",
    "pairing",
    "page",
    "behaviour",
    "evidence",
    "report",
    "compare",
    "watch",
    "track",
    "api",
)
