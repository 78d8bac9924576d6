"""The machine and the versions that a result was made with."""

from __future__ import annotations

import os
import platform
import subprocess

import torch

import myconv2d

from . import ROOT


def environment(device: str) -> dict[str, str]:
    """Facts in words, in the order in which people ask for them."""
    facts = {"commit": _commit()}
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        facts["card"] = (
            f"{properties.name}, {properties.total_memory >> 30} GiB, sm_{properties.major}{properties.minor}"
        )
        facts["driver"] = (
            _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "unknown"
        )
        facts["CUDA (torch's)"] = str(torch.version.cuda)
    facts["processor"] = _processor()
    facts["system"] = platform.platform()
    return facts | {name: str(fact) for name, fact in myconv2d.info().items()}


def load_average() -> dict[str, str]:
    """How busy the machine was just before."""
    return {"load average before": f"{os.getloadavg()[0]:.2f}"} if hasattr(os, "getloadavg") else {}


def _commit() -> str:
    commit = _output("git", "rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown (not a git checkout)"
    return commit + (
        ", with changes" if _output("git", "status", "--porcelain", "--untracked-files=no") else ""
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        return f"{names[0]}, {len(names)} logical cores"
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _output(*command: str) -> str:
    """What a program prints, the first line of it; empty if it fails or is not there."""
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip().partition("\n")[0] if run.returncode == 0 else ""
