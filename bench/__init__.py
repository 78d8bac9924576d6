"""The ruler: one table of cases, what every implementation of the convolution is held to, and how fast it is.

Right: cases.py (shapes, once) → operands.py (their tensors, in any layout) → oracle.py (what is exact, and how far
from it is right) → check.py. implementations.py names what can be checked.

Fast: layers.py, blocks.py, networks.py, throughput.py (who competes in what) → subjects.py → competition.py
(accuracy.py, measure.py) → rows.py → report.py (tables.py, charts/), compare.py. Rivals: variants.py, plain.py,
ort.py; on a GPU cuda.py. The arithmetic of both sides: precision.py.

Both on a GPU, in minutes: gpu_check.py (correctness.py → jobs.py, pool.py, worker.py; and reports). GPU kernels where
there is no GPU: gpu_code.py.

`python -m bench --help` lists the commands.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

if importlib.util.find_spec("myconv2d") is None:  # a checkout that is not installed
    sys.path.insert(0, str(ROOT / "kernels"))
