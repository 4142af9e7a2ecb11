"""What is refused before it touches the store: pickles, escaping paths, archives that would write outside.

Weights are data. A pickle is a program that runs when it is loaded, so no file that is one, by name or by content, is
ever published; and a name from outside (a hub's listing, an archive's table) never leaves the folder it belongs to.
"""

import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from zipfile import ZipInfo

from cloudcrest.kernel.errors import InvalidInput

MAX_PATH_CHARACTERS = 512
_PICKLE_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".dill", ".joblib", ".mar", ".nemo", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
)
_NO_PICKLES = frozenset({"tokenizer.bin"})
"""Names that look like one and are read here as a table of words (serving/engines/moonshine_model.py)."""
_PICKLE_PROTOCOLS = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
_MAX_SAFETENSORS_HEADER_BYTES = 100_000_000
_MAX_ARCHIVE_MEMBERS = 10_000


class UnsafeFile(InvalidInput):
    """A file or archive that could run code or write where it must not."""

    default_code = "unsafe_file"


def check_relative_path(path: str) -> str:
    """The path, if it is a plain relative one with forward slashes. Raises `UnsafeFile`."""
    parts = path.split("/")
    escapes = path.startswith("/") or any(part in ("", ".", "..") for part in parts)
    windows = "\\" in path or (len(path) > 1 and path[1] == ":")
    if escapes or windows or "\0" in path or len(path) > MAX_PATH_CHARACTERS:
        raise UnsafeFile(f"the path '{path[:80]}' would leave its folder")
    return path


def check_name(path: str) -> None:
    """Refuses names of pickles and of what usually is one. Raises `UnsafeFile`."""
    check_relative_path(path)
    name = PurePosixPath(path)
    if name.suffix.lower() in _PICKLE_SUFFIXES and name.name not in _NO_PICKLES:
        raise UnsafeFile(
            f"'{path}' is a pickle by its name, and loading a pickle runs whatever code is in it",
            hint="use the model's safetensors, GGUF or ONNX files",
        )


def check_content(name: str, path: Path) -> None:
    """Refuses a file whose content is a pickle or is not what its name says. Raises `UnsafeFile`."""
    with path.open("rb") as stream:
        head = stream.read(16)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".gguf":
        if not head.startswith(b"GGUF"):
            raise UnsafeFile(f"'{name}' is no GGUF file, whatever its name says")
    elif suffix == ".safetensors":
        header_bytes = int.from_bytes(head[:8], "little")
        if head[8:9] != b"{" or header_bytes > _MAX_SAFETENSORS_HEADER_BYTES:
            raise UnsafeFile(f"'{name}' is no safetensors file, whatever its name says")
    elif head.startswith(_PICKLE_PROTOCOLS) or head.startswith(_ZIP_MAGICS):
        raise UnsafeFile(
            f"'{name}' holds a pickle or an archive under another name",
            hint="use the model's safetensors, GGUF or ONNX files",
        )


def check_members(archive: str, members: Iterable[ZipInfo]) -> None:
    """Refuses an archive in which any member would leave the folder it is unpacked in. Raises `UnsafeFile`."""
    for count, member in enumerate(members, start=1):
        if count > _MAX_ARCHIVE_MEMBERS:
            raise UnsafeFile(f"{archive} holds more than {_MAX_ARCHIVE_MEMBERS} files")
        mode = member.external_attr >> 16
        if stat.S_ISLNK(mode):
            raise UnsafeFile(f"{archive} holds the symbolic link '{member.filename[:80]}'")
        try:
            check_relative_path(member.filename.removesuffix("/"))
        except UnsafeFile:
            raise UnsafeFile(
                f"{archive} holds '{member.filename[:80]}', which would be written outside its folder"
            ) from None
