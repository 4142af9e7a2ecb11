"""What the compiled copy is a copy of."""

import subprocess
from pathlib import Path

import pytest
from tools import compiled


def test_what_is_edited_while_it_compiles_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "src" / "cloudcrest" / "module.py"
    source.parent.mkdir(parents=True)
    source.write_text("before = 1\n")
    folder = tmp_path / "build"
    monkeypatch.setattr(compiled, "SOURCES", tmp_path / "src")

    def edit(*_: object, **__: object) -> None:
        source.write_text("after = 1\n")

    monkeypatch.setattr(subprocess, "run", edit)
    compiled.build(folder)
    assert (folder / "cloudcrest" / "module.py").read_text() == "before = 1\n"
    assert (folder / compiled.KEY).read_text() != compiled.key()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    compiled.build(tmp_path / "again")
    assert (tmp_path / "again" / compiled.KEY).read_text() == compiled.key()
