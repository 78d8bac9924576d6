"""One job of `gpu-check` in a process of its own: `python -m bench.worker JOB START DEADLINE`.

JOB is the job as JSON. Its units are run from number START on until DEADLINE (seconds since 1970). Each gives
one line of JSON on standard output, in order, after a first one that says that all is ready. Everything else
that is printed goes to standard error.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from typing import Any

import torch

from myconv2d import use_backend
from myconv2d.native import cpu

from . import block_cases, block_check
from .behaviours import NotHere, try_out
from .cases import CASES
from .check import Report, check
from .implementations import backend
from .jobs import ARITHMETICS, Job

RESTART = 75  # exit status: the CUDA context is broken, the units that are left need a fresh process


def _operators(job: Job, case: str, layout: str) -> dict[str, Any]:
    dtype, tf32 = ARITHMETICS[job.arithmetic]
    options: dict[str, Any] = {"tf32": tf32, "repeats": 3, "beside": True}
    if job.tool is not None:  # slow, and interested in our kernels only
        options |= {"repeats": 1, "oracle_device": "cpu", "beside": False}
    return _record(check(backend(job.backend, job.device), CASES[case], dtype, layout, job.device, **options))


def _blocks(job: Job, name: str) -> dict[str, Any]:
    case = block_cases.BY_NAME[name]
    if (why_not := block_check.problem(case, job.backend, job.arithmetic, job.device)) is not None:
        return {"problems": [], "not here": why_not}
    return _record(block_check.check(case, job.arithmetic, job.backend, job.device))


def _record(report: Report) -> dict[str, Any]:
    findings = [
        {
            "result": finding.result,
            "of bound": _finite(finding.of_bound),
            "error": _finite(finding.error),
            "framework's error": _finite(finding.framework_error),
        }
        for finding in report.findings
    ]
    return {"problems": report.problems, "findings": findings}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _behaviour(job: Job, name: str) -> dict[str, Any]:
    try:
        with use_backend(job.backend):
            try_out(name, torch.device(job.device))
    except NotHere as reason:
        return {"problems": [], "not here": str(reason)}
    except Exception as error:  # whatever it is, it is what the report is for
        return {"problems": [f"{type(error).__name__}: {str(error).strip()}"]}
    return {"problems": []}


def _works(device: str) -> bool:
    try:
        if device != "cpu":
            torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


def main(description: str, start: str, deadline: str) -> int:
    """Runs the job and returns the exit status."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    fields = json.loads(description)
    job = Job(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of falling back, which has a test of its own, and of torch's
    if job.isa is not None:
        cpu.use_isa(job.isa)
    units = job.units()
    print(json.dumps({"ready": True}), file=lines)
    for unit in units[int(start) :]:
        if time.time() > float(deadline):
            break
        run = _behaviour if job.arithmetic is None else _blocks if job.blocks else _operators
        record = run(job, *unit)
        print(json.dumps(record), file=lines)
        if record["problems"] and not _works(job.device):
            return RESTART
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
