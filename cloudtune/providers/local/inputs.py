"""The contract's folders of one job, filled with links to the staged files. Doing it twice changes nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudtune.providers.local.folder import JobFolder


def lay_out(folder: JobFolder, inputs: Mapping[str, str]) -> None:
    """Make ``input/ checkpoints/ output/ model/`` and put every input in place. ``inputs``: path → file:// URI. Raises OSError."""
    for needed in (folder.inputs, folder.root / "checkpoints", folder.root / "output" / "data", folder.outputs):
        needed.mkdir(parents=True, exist_ok=True)
    for name, uri in inputs.items():
        place = folder.inputs / name
        place.parent.mkdir(parents=True, exist_ok=True)
        _put(Path(unquote(urlsplit(uri).path)), place)


def _put(source: Path, place: Path) -> None:
    """A folder by symbolic link; a file by hard link, or as a copy where the file system has no links."""
    temporary = place.with_name(f".{place.name}.coming")
    temporary.unlink(missing_ok=True)
    if source.is_dir():
        temporary.symlink_to(source, target_is_directory=True)
    else:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
    temporary.replace(place)
    temporary.unlink(missing_ok=True)  # replacing one link to a file by another link to it leaves both names
