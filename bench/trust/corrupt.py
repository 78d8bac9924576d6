"""Damaged and hostile files: each must be refused with a UserError that says so, or be read rightly.

Sound files (specimens.py) are flipped, cut, overwritten, joined and swapped; beside them stand files that unfold into
much and pickles that execute. Looked at: the exception's type and that it names the file; the result; a canary file
that nobody may make; and the peak of memory, under a limit of the process for the worst case.
"""

from __future__ import annotations

import functools
import random
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from colourize.files import UserError

from .outcome import Outcome
from .specimens import Specimen, bombs, hostile, specimens
from .watched import watched

_LIMIT = 5 << 30  # bytes of address space, torch's own libraries among them


def _flipped(random: random.Random, content: bytearray, others: list[bytes]) -> bytes:
    for _ in range(random.choice([1, 1, 2, 8, 64])):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return bytes(content)


def _flipped_early(random: random.Random, content: bytearray, others: list[bytes]) -> bytes:
    """Headers are where lengths stand."""
    content[random.randrange(min(len(content), 64))] = random.choice(
        [0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)]
    )
    return bytes(content)


def _cut(random: random.Random, content: bytearray, others: list[bytes]) -> bytes:
    return bytes(content[: random.choice([0, 1, 7, 8, len(content) - 1, random.randrange(len(content))])])


def _overwritten(random: random.Random, content: bytearray, others: list[bytes]) -> bytes:
    at, size = random.randrange(len(content)), random.choice([1, 2, 4, 8, 100])
    content[at : at + size] = random.choice([b"\0", b"\xff", b"\x7f", b"9"]) * size
    return bytes(content)


def _without(random: random.Random, content: bytearray, others: list[bytes]) -> bytes:
    at = random.randrange(len(content))
    del content[at : at + random.choice([1, 3, 64])]
    return bytes(content)


def _repeated(random: random.Random, content: bytearray, others: list[bytes]) -> bytes:
    a, b = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return bytes(content[:b] + content[a:])


def _joined(random: random.Random, content: bytearray, others: list[bytes]) -> bytes:
    """The beginning of this, the end of another kind; or all of the other."""
    other = random.choice(others)
    at = random.choice([0, 4, 8, random.randrange(len(content))])
    return bytes(content[:at]) + other[at if random.random() < 0.5 else 0 :]


MUTATIONS: tuple[Callable, ...] = (_flipped, _flipped_early, _cut, _overwritten, _without, _repeated, _joined)


def _reset_peak() -> int:
    """Bytes in memory now, from which the peak is counted."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def problem(specimen: Specimen, content: bytes, folder: Path) -> tuple[str, str | None]:
    """("refused" or "read", and what is wrong)."""
    path, canary = folder / f"it{specimen.suffix}", folder / "canary"
    path.write_bytes(content)
    before, wrong = _reset_peak(), None
    try:
        result = specimen.read(path)
        note = "read"
        if not specimen.right(result):
            wrong = "is read, and the result is not right"
    except UserError as error:
        note = "refused"
        if path.name not in str(error) and "data_batch_3" not in str(error):
            wrong = f"is refused without naming the file: {error}"
    except BaseException as error:
        note, wrong = "other", f"raises {type(error).__name__}: {str(error)[:300]}"
    if canary.exists():
        canary.unlink()
        wrong = "is executed"
    if (used := _memory("VmHWM") - before) > specimen.memory:
        wrong = f"takes {used >> 20} MiB"
    return note, wrong and f"a {specimen.name} of {len(content)} bytes {wrong}"


def _case(seed: int, place: Path, index: int) -> tuple[str, str | None]:
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT, _LIMIT))
    kinds = specimens(place)
    special = _special(place)
    if index < len(special):
        name, content = special[index]
        what = "special"
        specimen = next(s for s in kinds if s.name == name)
    else:
        chance = random.Random(f"{seed}/{index}")
        specimen, mutation = chance.choice(kinds), chance.choice(MUTATIONS)
        others = [s.content for s in kinds if s is not specimen]
        content = mutation(chance, bytearray(specimen.content), others)
        what = mutation.__name__
    note, wrong = problem(specimen, content, place)
    if wrong is None:
        return note, None
    kept = place / f"case-{index}{specimen.suffix}"
    kept.write_bytes(content)
    return note, f"{wrong} ({what}; kept as {kept}; specimen {specimen.name!r})"


@functools.cache
def _special(place: Path) -> list[tuple[str, bytes]]:
    return [*bombs(), *hostile(place / "canary")]


def corrupt(seed: int, cases: int, minutes: float) -> Outcome:
    """All special files, then mutations, `cases` in all. What is wrongly read stays in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="corrupt-"))
    trial = watched(functools.partial(_case, seed, folder), cases, minutes)
    if not trial.problems:
        shutil.rmtree(folder)
    counts = ", ".join(f"{count:,} {note}" for note, count in sorted(trial.notes.items()))
    figure = (
        f"{trial.tried:,} damaged or hostile files: {counts}; {len(trial.problems)} wrongly (seed {seed})"
    )
    return Outcome("corrupt", figure, {"seed": seed, "cases": trial.tried, **trial.notes}, trial.problems)
