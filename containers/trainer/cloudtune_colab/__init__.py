"""What the cells of a cloudtune notebook do: check the machine, install the lock, bring data, keep results, start the trainer.

Standard library only, because it runs before anything is installed; it lies in the wheel that the notebook carries. The
training itself is the same supervisor and the same trainer as in every cloudtune container, in a process of its own.
In a notebook: ``job = start(...)``, then the methods of ``job`` from top to bottom. Each may be run again at any time.
"""

from cloudtune_colab.job import Job, start

__all__ = ["Job", "start"]
