"""The dry run's part inside the job: looks at the user's data with the trainer's own code, and makes a small model.

    python -m cloudtune_rehearsal prepare     examine the data, build the shrunk model, write the shrunk job
    python -m cloudtune_rehearsal reload      load what was saved and measure it again

Uses the trainer's functions for everything that the trainer does, so what is proved here holds there.
"""
