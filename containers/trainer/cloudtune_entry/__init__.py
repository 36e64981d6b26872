"""The first process of every cloudtune container: one small supervisor for SageMaker, Vertex AI and a laptop.

It finds the platform, lays the folders out, fetches secrets, looks at the GPU, starts the trainer (through torchrun
when there is more than one GPU or machine), passes SIGTERM on, and says in one sentence how it ended. Standard
library only, so that it starts in 50 ms and runs in any image; it trains nothing and imports no torch itself.

    python -m cloudtune_entry [train]

Exit codes: 0 complete · 1 failed (``output/failure`` says why) · 75 interrupted, a checkpoint is saved (143 on
SageMaker) · 137 killed, usually out of memory · 128 + n ended by signal n.
"""
