"""Results of runs for notebooks and scripts: see results.py."""

from catdpo_analysis.api.results import category, open_run, trajectory

__all__ = ["category", "open_run", "trajectory"]
