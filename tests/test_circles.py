"""No file imports one that imports it, not even inside a function or for its types."""

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"colourize": ROOT / "colourize", "bench": ROOT / "bench", "myconv2d": ROOT / "kernels" / "myconv2d"}


def modules() -> dict[str, Path]:
    """Name → file, of every module of the three packages."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules that a file imports, wherever in it."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            found.update(part if (part := f"{source}.{alias.name}") in known else source for alias in node.names)
    return found & known.keys() - {name}


def test_no_file_imports_one_that_imports_it():
    known = modules()
    graph = {name: imported(name, path, known) for name, path in known.items()}
    assert "bench.networks" in graph["bench.memory"] and "colourize.tasks" in graph["colourize.step"]
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle
