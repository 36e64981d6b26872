"""What a cloud's word for a job's state means here: the value that every place's table is made of. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cloudtune.job import JobState

LOGS: Final = "see its last lines with: cloudtune logs JOB"
COLLECT: Final = "bring its checkpoints home with: cloudtune collect JOB"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a word of the service means: our state, one sentence, and the next step (empty = wait)."""

    state: JobState
    sentence: str
    next_step: str = ""

    @property
    def message(self) -> str:
        return f"{self.sentence}; {self.next_step}" if self.next_step else self.sentence
