"""Each gate finds what it is there for, and leaves the rest alone."""

import subprocess
from pathlib import Path

import pytest
from tools.gates import check_file, main, private_words

HOME = "/" + "home/someone/work"
MIRROR = "https://packages.example.net/simple"
OPTION = "--index-url "


def whats(path: str, text: str, private: frozenset[str] = frozenset()) -> list[str]:
    return [finding.what for finding in check_file(path, text, private)[0]]


def test_a_small_honest_file_has_no_findings() -> None:
    text = "from decimal import Decimal\n\n\ndef double(amount: Decimal) -> Decimal:\n    return amount * 2\n"
    assert check_file("src/cloudcrest/billing/pricing.py", text) == ([], [])


def test_long_files_and_functions_are_found() -> None:
    assert "401 lines" in whats("src/a.py", "x = 1\n" * 401)[0]
    assert whats("src/a.py", "x = 1\n" * 400) == []
    assert whats("data/models.json", "1\n" * 500) == []
    assert "f has 71 lines" in whats("src/a.py", "def f():\n" + "    x = 1\n" * 70)[0]
    assert whats("src/a.py", "def f():\n" + "    x = 1\n" * 69) == []


@pytest.mark.parametrize(
    ("handler", "broad"),
    [
        ("except Exception:\n    pass", 1),
        ("except:\n    pass", 1),
        ("except (ValueError, Exception):\n    pass", 1),
        ("except BaseException:\n    x = 1\n    raise", 0),
        ("except ValueError:\n    pass", 0),
    ],
)
def test_broad_excepts_are_counted(handler: str, broad: int) -> None:
    text = f"try:\n    x = 1\n{handler}\n"
    assert len(check_file("src/cloudcrest/a.py", text)[1]) == broad
    assert check_file("tests/unit/a.py", text)[1] == []


def test_relative_imports_and_io_in_pure_modules_are_found() -> None:
    assert "relative import" in whats("src/cloudcrest/a.py", "from . import b\n")[0]
    assert "imports time" in whats("src/cloudcrest/serving/reconcile.py", "def f():\n    import time\n")[0]
    assert "imports sqlalchemy.orm" in whats("src/cloudcrest/billing/pricing.py", "from sqlalchemy.orm import X\n")[0]
    assert whats("src/cloudcrest/serving/controller.py", "import time\n") == []


@pytest.mark.parametrize(
    "line", ["time.sleep(1)", "asyncio.sleep(delay)", "anyio.sleep(0.1)", "from time import sleep"]
)
def test_tests_that_sleep_are_found(line: str) -> None:
    assert len(whats("tests/unit/test_a.py", line + "\n")) == 1
    assert whats("tests/support/wait.py", line + "\n") == []


def test_yielding_to_the_loop_is_no_sleep() -> None:
    assert whats("tests/unit/test_a.py", "await asyncio.sleep(0)\n".replace("await ", "")) == []


@pytest.mark.parametrize("call", ['s.bind(("127.0.0.1", 8080))', 'create_server(app, "127.0.0.1", port=9000)'])
def test_fixed_ports_are_found(call: str) -> None:
    assert "fixed port" in whats("tests/unit/test_a.py", call + "\n")[0]
    assert whats("tests/unit/test_a.py", call.replace("8080", "0").replace("9000", "0") + "\n") == []


def test_words_of_one_machine_are_found() -> None:
    assert "absolute path" in whats("README.md", f"cd {HOME}/cloudcrest\n")[0]
    assert "package registry" in whats("requirements/a.lock", f"{OPTION}{MIRROR}\n")[0]
    assert whats("docs/a.md", f"{OPTION}https://pypi.org/simple\n") == []
    assert whats("docs/a.md", "~/.config/cloudcrest and $HOME/x and src/root/x\n") == []
    private = private_words({"PIP_INDEX_URL": MIRROR}, Path(HOME))
    assert private == {"packages.example.net", HOME}
    assert "this machine" in whats("Makefile", "curl packages.example.net\n", private)[0]


def test_a_file_that_does_not_parse_is_one_finding() -> None:
    assert whats("src/a.py", "def\n") == ["does not parse: mend its syntax"]


def test_main_reads_the_repository_and_fails_on_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    source = tmp_path / "src"
    source.mkdir()
    (source / "fine.py").write_text("x = 1\n")
    assert main(tmp_path) == 0
    (source / "broad.py").write_text("try:\n    x = 1\nexcept Exception:\n    pass\n")
    assert main(tmp_path) == 1
    output = capsys.readouterr().out
    assert "src/broad.py:3: broad except" in output
    assert "1 broad excepts in 5 lines" in output
