"""The gates that no linter has: sizes, broad excepts, portable text, honest tests, pure modules.

Run `python tools/gates.py`: a line for each finding, `file:line: what, what to do`, and exit code 1 if there is any.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70
LINES_PER_BROAD_EXCEPT = 1000
CODE_SUFFIXES = frozenset({".py", ".ts", ".tsx", ".css", ".sh"})
MAX_TEXT_BYTES = 4_000_000

PURE_MODULES = frozenset(
    {
        "reconcile.py",
        "pricing.py",
        "admit.py",
        "growth.py",
        "route.py",
        "serving/state.py",
        "permissions.py",
        "limits.py",
        "settle.py",
        "placement/labels.py",
        "serving/places.py",
        "gang/packets.py",
        "gang/reach.py",
    }
)
"""Decisions: pure functions over frozen data. Ends of paths: a name alone holds in every slice."""

# fmt: off
IO_PACKAGES = frozenset({
    "alembic", "anyio", "asyncio", "fastapi", "fsspec", "httpx2", "io", "logging", "multiprocessing", "os", "pathlib",
    "procrastinate", "psutil", "psycopg", "random", "secrets", "select", "shutil", "signal", "socket", "sqlalchemy",
    "starlette", "structlog", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uvloop",
})
# fmt: on

PUBLIC_REGISTRIES = frozenset({"pypi.org", "files.pythonhosted.org", "registry.npmjs.org"})
REGISTRY_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "NPM_CONFIG_REGISTRY")
_INDEX_OPTION = re.compile(r"(?:index-url|find-links|index_url|registry)[\s=:\"']+https?://[^\s\"']+", re.IGNORECASE)
_HOME_PATH = re.compile(r"(?<![\w.~$}/-])/(?:home|Users)/[A-Za-z][\w.-]*/|(?<![\w.~$}/-])/root/\w|[A-Za-z]:\\Users\\\w")
_SLEEPERS = frozenset({"time", "asyncio", "anyio"})
_LISTENERS = frozenset({"bind", "create_server", "start_server", "HTTPServer", "ThreadingHTTPServer"})


@dataclass(frozen=True, order=True)
class Finding:
    """One thing to mend. `line` counts from 1."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def check_size(path: str, text: str) -> Iterator[Finding]:
    """Files of code stay under their limit."""
    lines = text.count("\n") + (not text.endswith("\n"))
    if PurePosixPath(path).suffix in CODE_SUFFIXES and lines > MAX_FILE_LINES:
        yield Finding(path, lines, f"{lines} lines, at most {MAX_FILE_LINES}: split it by what changes together")


def check_text(path: str, text: str, private: frozenset[str]) -> Iterator[Finding]:
    """Nothing of one developer's machine: no package registry's host, no path into a home. `private`: further such."""
    for number, line in enumerate(text.splitlines(), 1):
        option = _INDEX_OPTION.search(line)
        if option is not None and not any(host in option.group() for host in PUBLIC_REGISTRIES):
            yield Finding(path, number, "names a package registry: leave it to the environment (PIP_INDEX_URL)")
        elif any(word in line for word in private):
            yield Finding(path, number, "names this machine's registry or folder: leave it to the environment")
        if _HOME_PATH.search(line):
            yield Finding(path, number, "an absolute path of one machine: make it relative, or take it from a setting")


def check_functions(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Functions stay under their limit."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                what = f"{node.name} has {lines} lines, at most {MAX_FUNCTION_LINES}: name its parts"
                yield Finding(path, node.lineno, what)


def broad_excepts(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Handlers of everything, but for those that clean up and raise again."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type):
            last = node.body[-1]
            if not (isinstance(last, ast.Raise) and last.exc is None):
                yield Finding(path, node.lineno, "broad except: name the errors, or let them reach the process edge")


def check_imports(path: str, tree: ast.Module) -> Iterator[Finding]:
    """No relative imports anywhere; no I/O in pure modules, not even inside a function."""
    is_pure = path.startswith("src/") and any(PurePosixPath(path).match(name) for name in PURE_MODULES)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield Finding(path, node.lineno, "relative import: write the whole module name")
        if is_pure and isinstance(node, ast.Import | ast.ImportFrom):
            for module in _imported(node):
                if module.partition(".")[0] in IO_PACKAGES:
                    what = f"a pure module imports {module}: hand its result in as an argument"
                    yield Finding(path, node.lineno, what)


def check_test(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Tests neither sleep for real nor take fixed ports. tests/support holds the one helper that waits for others."""
    if not path.startswith("tests/") or path.startswith("tests/support/"):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in _SLEEPERS and any(n.name == "sleep" for n in node.names):
            yield Finding(path, node.lineno, "imports sleep: use a ManualClock, or tests.support.waiting.until")
        if isinstance(node, ast.Call):
            if _is_real_sleep(node):
                yield Finding(path, node.lineno, "sleeps: use a ManualClock, or tests.support.waiting.until")
            if _name(node.func) in _LISTENERS and any(port > 0 for port in _literal_ports(node)):
                yield Finding(path, node.lineno, "a fixed port: bind port 0 and ask which it became")


def check_file(path: str, text: str, private: frozenset[str] = frozenset()) -> tuple[list[Finding], list[Finding]]:
    """The findings of one file, and its broad excepts, which are counted over the whole package."""
    findings = [*check_size(path, text), *check_text(path, text, private)]
    if not path.endswith(".py"):
        return findings, []
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        return [*findings, Finding(path, error.lineno or 1, "does not parse: mend its syntax")], []
    for check in (check_functions, check_imports, check_test):
        findings.extend(check(path, tree))
    return findings, list(broad_excepts(path, tree)) if path.startswith("src/") else []


def private_words(environment: dict[str, str], root: Path) -> frozenset[str]:
    """What must not stand in any file: hosts of registries that this machine is set to, and this checkout's folder."""
    words = {str(root)}
    for variable in REGISTRY_VARIABLES:
        for url in environment.get(variable, environment.get(variable.lower(), "")).split():
            words.add(urlsplit(url).hostname or "")
    return frozenset(words - PUBLIC_REGISTRIES - {""})


def tracked_files(root: Path) -> list[str]:
    """Tracked files and new ones that git does not ignore, as far as they exist."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    paths = (path for path in listing.stdout.decode().split("\0") if path)
    return sorted({path for path in paths if (root / path).is_file()})


def main(root: Path) -> int:
    """Checks every file of the repository; prints the findings and returns the exit code."""
    private = private_words(dict(os.environ), root)
    findings: list[Finding] = []
    broad: list[Finding] = []
    package_lines = 0
    for path in tracked_files(root):
        content = (root / path).read_bytes()
        if len(content) > MAX_TEXT_BYTES or b"\0" in content:
            continue
        text = content.decode(errors="replace")
        found, broad_here = check_file(path, text, private)
        findings.extend(found)
        broad.extend(broad_here)
        package_lines += text.count("\n") if path.startswith("src/") and path.endswith(".py") else 0
    if len(broad) * LINES_PER_BROAD_EXCEPT >= max(package_lines, 1) and broad:
        findings.extend(broad)
        print(f"{len(broad)} broad excepts in {package_lines} lines: under one per {LINES_PER_BROAD_EXCEPT} is allowed")
    for finding in sorted(findings):
        print(finding)
    return 1 if findings else 0


def _is_broad(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(_is_broad(item) for item in caught.elts)
    return caught is None or (isinstance(caught, ast.Name) and caught.id in {"Exception", "BaseException"})


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    return [node.module] if node.module else []


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _is_real_sleep(call: ast.Call) -> bool:
    function = call.func
    if not (isinstance(function, ast.Attribute) and function.attr == "sleep" and isinstance(function.value, ast.Name)):
        return False
    length = call.args[0] if call.args else None
    is_yield = isinstance(length, ast.Constant) and length.value == 0
    return function.value.id in _SLEEPERS and not is_yield


def _literal_ports(call: ast.Call) -> Iterator[int]:
    values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg in {"port", "address"})]
    for value in values:
        parts = value.elts if isinstance(value, ast.Tuple) else [value]
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, int) and not isinstance(part.value, bool):
                yield part.value


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
