"""Many trainings that differ in some settings, side by side.

plan.py       what is asked for: fixed settings, and those that vary, as sweep.toml keeps them
sweep.py      the folder: runs, each trained, resumed or skipped
scores.py     what the runs came to, beside the baselines: one table for screen, CSV and Markdown
drawing.py    all curves in one plot, and the same validation pictures as every run makes them
"""

from .plan import Plan, read_values
from .sweep import Result, Sweep

__all__ = ["Plan", "Result", "Sweep", "read_values"]
