"""The memory of large results on the CPU, which the native library keeps for the next ones (csrc/cpu/heap.h)."""

from __future__ import annotations

from . import native


def release_memory() -> int:
    """Gives the system back the memory that is kept for large results, where none lives; returns how many bytes.

    A result of 256 KiB or more lies in a region of 64 MiB or more that stays with the process when its tensors die, up
    to 1 GiB of such idle regions: fresh pages cost more than a small layer. So do the images between the layers of a
    frozen network, while it runs. This gives the idle ones back; a region of which something is in use stays whole.
    myconv2d itself never needs this call, as with `torch.cuda.empty_cache`. The storage of such a result cannot grow
    (`resize_`), as with `torch.from_numpy`.

        >>> output = myconv2d.conv2d(torch.rand(1, 16, 256, 256), torch.rand(16, 16, 3, 3))
        >>> del output
        >>> myconv2d.release_memory() > 0 or "malloc" in myconv2d.info()["memory of results"]
        True
    """
    return native.cpu.release_memory() if native.cpu.problem is None else 0


def description() -> str:
    """For `info`: whose the memory of results is, and how much of it there is."""
    kept = native.cpu.kept_memory()
    if kept is None:
        return "malloc's, fresh each time: torch takes no other before version 2.11, and a sanitizer's build gives none"
    return f"kept: {kept[0] / 2**20:.0f} MiB, {kept[1] / 2**20:.1f} of them in use"
