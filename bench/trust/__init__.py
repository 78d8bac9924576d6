"""Reasons to trust the library: checks that look for failures instead of confirming successes, one command each.

    python -m bench trust fuzz          random convolutions and fused blocks beside the float64 oracle
    python -m bench trust corrupt       damaged and hostile files
    python -m bench trust kill          a training killed again and again; a disk that is full
    python -m bench trust sanitize      the native library under three sanitizers, and between guard pages
    python -m bench trust concurrency   threads, forks, worker processes
    python -m bench trust overflow      sizes that no integer and no memory holds
    python -m bench trust framework     the framework's own test material, counted
    python -m bench trust memory        whether a long training grows

fuzz.py draws what configurations.py and block_configurations.py describe, and shrink.py makes a failing one small;
corrupt.py damages what specimens.py makes; watched.py runs cases in a process that may die.

Each prints a figure, writes it as a dated result (outcome.py), and exits with 1 if it found anything.
docs/trust.md shows the newest of every check; `--quick` is what the tests run.
"""
