"""What the compiled copy is a copy of."""

import subprocess
import sysconfig
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


def test_python_s_own_flags_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, str] = {}
    monkeypatch.setattr(subprocess, "run", lambda *_, env, **__: told.update(env))
    monkeypatch.setattr(compiled, "SOURCES", tmp_path / "src")
    (tmp_path / "src" / "cloudcrest").mkdir(parents=True)
    compiled.build(tmp_path / "build")
    flags = told["CFLAGS"].split()
    assert set((sysconfig.get_config_var("CFLAGS") or "").split()) <= set(flags)
    assert set(compiled.FLAGS.split()) <= set(flags)
