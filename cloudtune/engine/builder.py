"""A local engine as an ``ImageBuilder``: finds an image by its content-hashed name, builds it when it is not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cloudtune.engine.client import Connection
from cloudtune.engine.images import BuildLine, build_image, find_image


@dataclass(frozen=True)
class EngineBuilder:
    """Builds on ``connection``'s machine; the reference it returns is the image's id, which names its content."""

    connection: Connection

    def find(self, name: str) -> str | None:
        """The id of the image called ``name``, None when this engine has none."""
        return find_image(self.connection, name)

    def build(self, name: str, context: Mapping[str, bytes], progress: Callable[[str], None]) -> str:
        """Build and return the id; ``progress`` hears each line with its step. Raises BuildFailed."""

        def said(line: BuildLine) -> None:
            progress(f"[{line.step}/{line.steps}] {line.text}")

        return build_image(self.connection, name, context, on_line=said)
