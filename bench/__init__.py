"""The ruler: one table of cases, and what every implementation of the convolution is held to.

cases.py (shapes, once) → operands.py (their tensors, in any layout) → oracle.py (what is exact, and how far
from it is right) → check.py. implementations.py names what can be checked.
`python -m bench --help` lists the commands.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

if importlib.util.find_spec("myconv2d") is None:  # a checkout that is not installed
    sys.path.insert(0, str(ROOT / "kernels"))
