"""The wheel installs and runs on its own: every file of the package is in it, none of the checkout is needed."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import cloudcrest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "cloudcrest"
UV = ROOT / ".uv" / "bin" / "uv"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `uv build` makes of this checkout."""
    out = tmp_path_factory.mktemp("dist")
    command = [uv(), "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", str(out)]
    run(*command, str(ROOT))
    return next(out.glob("*.whl"))


def uv() -> str:
    """The project's own uv, or the machine's."""
    found = str(UV) if UV.exists() else shutil.which("uv")
    assert found is not None, "uv is missing: run the tests with `make test`"
    return found


def run(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=PACKAGE,
        capture_output=True,
        check=True,
    )
    wanted = {f"cloudcrest/{name}" for name in listed.stdout.decode().splitlines() if (PACKAGE / name).exists()}
    with zipfile.ZipFile(wheel) as archive:
        assert wanted <= set(archive.namelist())


def test_the_wheel_runs_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    packages = next((environment / "lib").glob("python*")) / "site-packages"
    python = str(environment / "bin" / "python")
    run(uv(), "pip", "install", "--quiet", "--no-deps", "--offline", "--python", python, str(wheel))
    # What it depends on comes from this environment; the editable checkout there does not, .pth files do not nest.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    place = run(python, "-c", "import cloudcrest; print(cloudcrest.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(environment)
    script = str(environment / "bin" / "cloudcrest")
    assert run(script, "version", cwd=tmp_path).strip() == cloudcrest.__version__
    assert "usage: cloudcrest up" in run(python, "-m", "cloudcrest.bootstrap", "up", "--help", cwd=tmp_path)
    data = "import cloudcrest.catalog.seed, cloudcrest.infra.migrate, cloudcrest.billing.seed"
    run(python, "-c", data, cwd=tmp_path)
