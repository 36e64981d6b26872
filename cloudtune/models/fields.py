"""Reading a ``config.json`` that anybody may have written: typed, bounded, every fault named by its key. Pure.

transformers leaves out of a nested ``text_config`` what equals its class default, so defaults belong to reading.
They are kept in ``models/defaults.py``; the sizes that make a model what it is must be written in a top-level config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudtune.errors import SourceError

LARGEST = 2**31 - 1
MOST_LAYERS = 4096


class Fields:
    """One config with the defaults of its model type. All faults are SourceErrors that name the key."""

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any], *, where: str, essential: frozenset[str]) -> None:
        self._config = config
        self._defaults = defaults
        self._essential = essential
        self.where = where
        self.model_type = str(config.get("model_type", ""))

    def fault(self, key: str, what: str) -> SourceError:
        """The error for one key, ready to be raised."""
        return SourceError(
            f"{key}: {what}",
            where=self.where,
            hint=f"compare with the config.json that the publisher of this {self.model_type} model ships",
            code="bad-model-config",
        )

    def raw(self, key: str, *aliases: str) -> Any:
        """The written value under ``key`` or another name of it, else the default; a written null stays None."""
        names = (key, *aliases)
        written = [self._config[name] for name in names if name in self._config]
        value = next((value for value in written if value is not None), None)
        if value is None and key in self._essential:
            raise self.fault(key, "missing in the model's config")
        if written:
            return value
        return next((self._defaults[name] for name in names if name in self._defaults), None)

    def integer(self, key: str, *aliases: str, least: int = 1, most: int = LARGEST) -> int:
        """A whole number within [least, most]."""
        value = self.raw(key, *aliases)
        if value is None:
            raise self.fault(key, "missing in the model's config")
        return self._whole(key, value, least, most)

    def maybe_integer(self, key: str, *aliases: str, least: int = 1) -> int | None:
        """A whole number, or None when the config has null or nothing."""
        value = self.raw(key, *aliases)
        return None if value is None else self._whole(key, value, least, LARGEST)

    def number(self, key: str, *aliases: str) -> float | None:
        """A finite number of at least 0, or None."""
        value = self.raw(key, *aliases)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
            raise self.fault(key, f"a number of at least 0 is expected, not {shown(value)}")
        return float(value)

    def flag(self, key: str, *aliases: str) -> bool:
        """True or false; false when nothing says otherwise."""
        value = self.raw(key, *aliases)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.fault(key, f"true or false is expected, not {shown(value)}")
        return value

    def text(self, key: str, *aliases: str) -> str:
        """A non-empty word."""
        value = self.raw(key, *aliases)
        if not isinstance(value, str) or not value:
            raise self.fault(key, f"a word is expected, not {shown(value)}")
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        """A nested object; empty when missing."""
        value = self.raw(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.fault(key, f"an object is expected, not {shown(value)}")
        return value

    def words(self, key: str, count: int, known: frozenset[str]) -> tuple[str, ...] | None:
        """A list of ``count`` words out of ``known``, or None when missing."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or len(value) != count:
            raise self.fault(key, f"a list with one entry per layer ({count}) is expected")
        return tuple(self.checked_word(key, word, known) for word in value)

    def checked_word(self, key: str, word: Any, known: frozenset[str]) -> str:
        """One word out of ``known``."""
        if not isinstance(word, str) or word not in known:
            raise self.fault(key, f"unknown kind of layer {shown(word)}; known are {', '.join(sorted(known))}")
        return word

    def integers(self, key: str, *, most: int = LARGEST) -> tuple[int, ...] | None:
        """A list of whole numbers of at least 0, or None when missing."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or len(value) > MOST_LAYERS:
            raise self.fault(key, "a list of whole numbers is expected")
        return tuple(self._whole(key, item, 0, most) for item in value)

    def _whole(self, key: str, value: Any, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fault(key, f"a whole number is expected, not {shown(value)}")
        if not least <= value <= most:
            raise self.fault(key, f"{shown(value)} is out of range, expected {least} to {most}")
        return value


def shown(value: Any) -> str:
    """A value as short text for a message. Huge integers are not spelled out (str of them may even refuse)."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST * 2**32:
        return "a number of more than 18 digits"
    text = repr(value) if not isinstance(value, (list, tuple, Mapping)) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:37]}..."
