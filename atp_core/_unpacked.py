"""A packed source, made dense for as long as it is read."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from .errors import DataError
from .packed import INDEX_NAME, is_packed, unpack_files
from .progress import Progress
from .records import Source
from .weights import read_header

__all__ = ["Readable"]

_DTYPE_BYTES = {"64": 8, "32": 4, "16": 2}


class Readable:
    """What plugins read in place of a source: itself, or its dense form in a temporary folder.

    Plugins hand directories to libraries that know safetensors only, so a packed directory is
    unpacked and checked first. The folder goes when this does.

    Args:
        source: as the user wrote it.
        progress: shown one step a tensor.

    Raises:
        ModelError: the packed directory is damaged.
        DataError: the temporary folder has too little space.
    """

    def __init__(self, source: Source, progress: Progress) -> None:
        self.source = source
        path = source.path
        if path is None or not path.is_dir() or not is_packed(path):
            return
        folder = tempfile.mkdtemp(prefix="atp-unpacked-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        # The name is what some plugins call the model by.
        dense = Path(folder) / path.resolve().name
        dense.mkdir()
        files = [file for file in path.iterdir() if file.suffix == ".safetensors"]
        _check_space(dense, files)
        for file in path.iterdir():
            if file not in files and file.name != INDEX_NAME and file.is_file():
                shutil.copy2(file, dense)
        total = sum(len(read_header(file)) for file in files)
        with progress.task(f"unpacking {source.text}", total) as advance:
            unpack_files(path, dense, advance)
        self.source = Source(str(dense))


def _check_space(folder: Path, files: list[Path]) -> None:
    needed = 0
    for file in files:
        for name, stored in read_header(file).items():
            width = _DTYPE_BYTES.get(stored.dtype[-2:], 1)
            count = 1
            for side in stored.shape:
                count *= side
            # A mask stands for eight weights a byte, of two bytes each at least.
            needed += count * (16 if name.endswith(".mask") else width)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"unpacking takes about {needed / 1e9:.1f} GB and {folder.parent.parent} has "
            f"{free / 1e9:.1f} GB free; set TMPDIR to a folder with more"
        )
