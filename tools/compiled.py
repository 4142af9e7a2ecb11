"""Builds the package with the gateway's hot path compiled by mypyc: `make compiled`. Needs a C compiler.

The result is a folder of its own, build/compiled: a whole copy of the package with extension modules beside the sources
they were made from. Put at the head of PYTHONPATH it is used, else not; it never mixes with src, so an edit there is
never shadowed by what was compiled before. It is made anew when any source has changed, and replaced in one step.
"""

import ast
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src"
OUT = ROOT / "build" / "compiled"
KEY = "sources.sha256"
MODULES = (
    "billing/tariff",
    "gateway/account",
    "gateway/admit",
    "gateway/app",
    "gateway/authenticate",
    "gateway/budget",
    "gateway/call",
    "gateway/claims",
    "gateway/connection",
    "gateway/deadline",
    "gateway/fallback",
    "gateway/growth",
    "gateway/http1",
    "gateway/images",
    "gateway/inference",
    "gateway/kept",
    "gateway/known_head",
    "gateway/metrics",
    "gateway/outlet",
    "gateway/parsed",
    "gateway/parts",
    "gateway/passage",
    "gateway/plain",
    "gateway/protocol",
    "gateway/purse",
    "gateway/record",
    "gateway/relay",
    "gateway/request",
    "gateway/request_id",
    "gateway/rounds",
    "gateway/route",
    "gateway/routing/books",
    "gateway/routing/decision",
    "gateway/routing/prefix_index",
    "gateway/routing/prompt",
    "gateway/routing/router",
    "gateway/shared_limits",
    "gateway/snapshot",
    "gateway/sse",
    "gateway/sound/relay",
    "gateway/state",
    "gateway/validate",
    "gateway/validate_chat",
    "gateway/vigil",
    "gateway/waiting",
    "metering/spool",
)

FLAGS = "-fvisibility=hidden -fno-plt -fno-semantic-interposition"
"""Nobody else calls what is in it: then the compiler need not leave each function as it is."""

_SETUP = """
import os
from mypyc.build import mypycify
from setuptools import setup
modules = os.environ["MODULES"].split()
setup(name="compiled", ext_modules=mypycify(modules, opt_level="3", debug_level="0", group_name="cloudcrest"))
"""


def key() -> str:
    """What a build depends on: every source, the modules that are compiled, the Python, the compiler and its flags."""
    digest = hashlib.sha256(f"{sys.version} {version('mypy')} {MODULES} {FLAGS}".encode())
    for path in sorted(SOURCES.rglob("*.py")):
        digest.update(str(path.relative_to(SOURCES)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def unfit(path: Path) -> list[str]:
    """What mypyc would build in silence and wrongly."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Struct") for base in node.bases):
            # It loses its options, and the bounds in its annotations.
            found.append(f"{path}:{node.lineno}: {node.name} is a Struct: move it to a module that is not compiled")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            handlers = [each for each in ast.walk(node) if isinstance(each, ast.ExceptHandler) and each.name]
            # The first one's type would be demanded of all of them.
            if len({each.name for each in handlers}) < len(
                {(each.name, ast.dump(each.type or each)) for each in handlers}
            ):
                found.append(f"{path}:{node.lineno}: two errors of different types share a name in {node.name}")
    return found


def heirs() -> list[str]:
    """Classes that are not compiled of ones that are: their methods would not be found by what is compiled."""
    found = []
    made: set[str] = set()
    for module in MODULES:
        tree = ast.parse((SOURCES / "cloudcrest" / f"{module}.py").read_text())
        made |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    compiled = {SOURCES / "cloudcrest" / f"{module}.py" for module in MODULES}
    for path in sorted(set((SOURCES / "cloudcrest" / "gateway").rglob("*.py")) - compiled):
        found += [
            f"{path}:{node.lineno}: {node.name} inherits from what is compiled: compile its module too"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ClassDef) and made & {ast.unparse(base) for base in node.bases}
        ]
    return found


def missing() -> str | None:
    """What is missing on this machine to compile; None: nothing."""
    if shutil.which("cc") is None:
        return "a C compiler (Debian, Ubuntu: apt install gcc)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Python's headers (Debian, Ubuntu: apt install python3-dev)"
    return None


def build(folder: Path) -> None:
    """Compiles a copy of the package in `folder`. Raises `CalledProcessError` where it does not compile."""
    built_of = key()  # first: what is edited meanwhile is to be built anew
    shutil.copytree(SOURCES / "cloudcrest", folder / "cloudcrest", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "setup.py").write_text(_SETUP)
    environment = {
        "PATH": sysconfig.get_path("scripts") + ":/usr/local/bin:/usr/bin:/bin",
        "MODULES": " ".join(f"cloudcrest/{module}.py" for module in MODULES),
        "MYPY_CACHE_DIR": str(folder / "cache"),
        # In place of Python's own, so those go before: without -DNDEBUG, what Python's headers assert would be checked.
        "CFLAGS": f"{sysconfig.get_config_var('CFLAGS') or ''} {FLAGS}",
    }
    argv = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--parallel", "2"]
    subprocess.run(argv, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    for rest in ("build", "cache"):
        shutil.rmtree(folder / rest, ignore_errors=True)
    (folder / "setup.py").unlink()
    (folder / KEY).write_text(built_of)


def made() -> str | None:
    """Builds where sources have changed since; None, or why it cannot."""
    if (OUT / KEY).exists() and (OUT / KEY).read_text() == key():
        return None
    shutil.rmtree(OUT, ignore_errors=True)
    reason = missing()
    if reason is not None:
        return f"{reason} is missing; without it everything works, slower"
    wrong = [line for module in MODULES for line in unfit(SOURCES / "cloudcrest" / f"{module}.py")] + heirs()
    if wrong:
        return "\n".join(wrong)
    print(f"compiling {len(MODULES)} modules with mypyc, some minutes", file=sys.stderr)
    OUT.parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=OUT.parent, prefix="compiled-"))
    try:
        build(folder)
        folder.rename(OUT)
    except subprocess.CalledProcessError as error:
        return f"it did not compile:\n{error.stdout[-4_000:]}\n{error.stderr[-4_000:]}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None


if __name__ == "__main__":
    sys.exit(made())
