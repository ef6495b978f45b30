"""Who may import whom, and what starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ALLOWED = {
    "cbs": {"cbs"},
    "launch": {"launch", "cbs"},
    "analysis": {"analysis", "cbs"},
    "hydra_plugins": {"launch", "cbs"},
}
# What launch and analysis may know of cbs (analysis also when a target is crossed);
# launch's workers and preflight also open the door to training, alone or as one of several processes.
OPEN = {"key", "outcome", "record", "config", "schema", "options", "errors", "labels", "pace", "claim", "cli", "stack"}
# The adaptive sweep takes its next runs from here: the one module of analysis that launch may know.
DOOR = "analysis.adaptive.design."
# Rooms of analysis, the lowest first: each imports from those before it only. What lies outside them may import all.
ROOMS = ["curves", "fitting", "theory", "output", "adaptive", "answer", "compare"]
OURS = {"cbs", "launch", "analysis", "hydra_plugins", "conf"}


def imports(file: Path, top_level_only: bool = False) -> list[str]:
    tree = ast.parse(file.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: import absolutely"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_what_they_may(package: str) -> None:
    for file in files(package):
        for name in imports(file):
            head, *rest = name.split(".")
            if head in OURS and not (package == "launch" and name.startswith(DOOR)):
                assert head in ALLOWED[package], f"{file} imports {name}"
            if head == "cbs" and package == "analysis":
                assert rest[0] in OPEN - {"claim", "cli", "stack"} | {"target", "__version__"}, f"{file} imports {name}"
            if head == "cbs" and package == "launch":
                inside_function = name not in imports(file, top_level_only=True)
                doors = rest[0] in ("trial", "parallel") and inside_function
                assert rest[0] in OPEN | {"batch_sizes", "branch"} or doors, f"{file}: {name}"


@pytest.mark.parametrize("module", ["cbs.outcome", "cbs.target", "cbs.errors"])
def test_the_kernel_of_records_needs_the_standard_library_only(module: str) -> None:
    file = ROOT / (module.replace(".", "/") + ".py")
    for name in imports(file):
        assert name.split(".")[0] in sys.stdlib_module_names | {"cbs"}, f"{file} imports {name}"


@pytest.mark.parametrize(
    "module", ["cbs.run", "cbs.cli", "launch.local", "launch.plan", "analysis.__main__", "analysis.fitting.fit"]
)
def test_starting_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_fit_as_text_needs_nothing_that_draws(tmp_path: Path) -> None:
    (tmp_path / "curve.csv").write_text("batch_size,steps,outcome\n2,90,reached\n4,60,reached\n8,50,reached\n")
    arguments = ["fit", "--csv", str(tmp_path / "curve.csv"), "--tables", str(tmp_path)]
    unwanted = {"matplotlib", "jinja2", "torch"}
    code = f"import sys, analysis.__main__ as a; a.main({arguments}); sys.exit(bool({unwanted} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert (tmp_path / "curves.csv").exists()


def modules(package: str) -> dict[str, set[str]]:
    """Every module of a package and those of the package that it imports, inside functions and for types included."""
    found = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files(package)}
    return {
        name: {next((m for m in (seen, seen.rpartition(".")[0]) if m in found), "") for seen in imports(file)} - {""}
        for name, file in found.items()
    }


def test_each_room_of_analysis_imports_only_rooms_below() -> None:
    assert sorted(ROOMS) == sorted(p.parent.name for p in (ROOT / "analysis").glob("*/__init__.py"))
    for name, imported in modules("analysis").items():
        room = name.split(".")[1] if name.count(".") else ""
        if room in ROOMS:
            for other in imported:
                below = ROOMS[: ROOMS.index(room) + 1]
                assert other.count(".") == 2, f"{name} imports {other}: name the module"
                assert other.split(".")[1] in below, f"{name} imports {other}"


def test_no_modules_of_analysis_import_each_other_in_a_circle() -> None:
    """Layer by layer: a module that waits for others only once these are done."""
    waiting = modules("analysis")
    while waiting:
        free = {name for name, imported in waiting.items() if not imported & set(waiting)}
        assert free, f"a circle among {', '.join(sorted(waiting))}"
        waiting = {name: imported for name, imported in waiting.items() if name not in free}


def test_hydra_plugins_is_a_namespace() -> None:
    assert not (ROOT / "hydra_plugins" / "__init__.py").exists()
