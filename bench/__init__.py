"""The ruler: one table of cases, and what every implementation of the convolution is held to.

cases.py (shapes, once) → operands.py (their tensors, in any layout) → oracle.py (what is exact, and how far
from it is right) → check.py. implementations.py names what can be checked.
`python -m bench --help` lists the commands.
"""
