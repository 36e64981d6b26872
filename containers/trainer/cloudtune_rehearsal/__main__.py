"""``prepare`` and ``reload``; a failure is one sentence on stderr and in the failure file, exit code 1."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cloudtune.errors import CloudtuneError, JobFailed
from cloudtune.recipe.examination import EXAMINATION_NAME, FOLDER, ORDERS_NAME, Examination, RehearsalOrders
from cloudtune_rehearsal.examine import Look, conclude, examine
from cloudtune_rehearsal.reload import reload
from cloudtune_rehearsal.small import MODEL, put_model, put_tokenizer, small_job
from cloudtune_trainer.chat import ChatRenderer
from cloudtune_trainer.model import Base, load_tokenizer
from cloudtune_trainer.paths import Paths
from cloudtune_trainer.surroundings import quiet_transformers
from cloudtune_trainer.tokens import Tokens


def main(arguments: list[str]) -> int:
    """Run one step of the rehearsal."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    paths = Paths.from_environment(os.environ)
    quiet_transformers()
    try:
        if arguments == ["prepare"]:
            prepare(paths)
        elif arguments == ["reload"]:
            reload(paths)
        else:
            raise JobFailed("the rehearsal knows `prepare` and `reload`")
    except CloudtuneError as error:
        paths.failure.parent.mkdir(parents=True, exist_ok=True)
        paths.failure.write_text(f"{error.what}\n{error.where}\n{error.hint}\n")
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def prepare(paths: Paths) -> None:
    """Examine the data; when it can be trained on, build the small model and write the small job's orders."""
    folder = paths.inputs / FOLDER
    orders = RehearsalOrders.model_validate_json((folder / ORDERS_NAME).read_bytes())
    look, stand_in = _begin(orders, paths, folder)
    examine(look, paths)
    found = conclude(look, stand_in, "", 0)
    if not found.wrong:
        model_class, parameters = put_model(look.orders, look.tokenizer, paths.inputs / MODEL)
        found = found.model_copy(update={"model_class": model_class, "parameters": parameters})
        job = small_job(look.orders, look.chosen["train"], look.chosen["eval"], paths)
        paths.job_file.write_text(job.model_dump_json(indent=1))
    _write(found, paths)


def _begin(orders: RehearsalOrders, paths: Paths, folder: Path) -> tuple[Look, bool]:
    recipe = orders.job.recipe
    template_path = paths.job_folder / "chat_template.jinja"
    template = template_path.read_text(encoding="utf-8") if template_path.exists() else None
    model_folder = paths.inputs / MODEL
    model_folder.mkdir(parents=True, exist_ok=True)
    stand_in = put_tokenizer(orders, folder / "tokenizer", model_folder, template)
    chats = any(channel.source.format == "chat" for channel in (*orders.job.train, *orders.job.eval))
    job = orders.job
    if stand_in and chats and recipe.data.chat_template == "tokenizer":
        # The real tokenizer's template is out of reach; ChatML is the most common one.
        data = recipe.data.model_copy(update={"chat_template": "chatml"})
        job = job.model_copy(update={"recipe": recipe.model_copy(update={"data": data})})
        orders = orders.model_copy(update={"job": job})
    tokenizer = load_tokenizer(job, Base(str(model_folder), None), paths)
    chat = ChatRenderer(tokenizer) if chats else None
    tokens = Tokens(tokenizer, job.recipe.data, recipe.task, lambda: ChatRenderer(tokenizer))
    return Look(orders, tokens, tokenizer, chat), stand_in


def _write(found: Examination, paths: Paths) -> None:
    folder = paths.root / "output" / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EXAMINATION_NAME).write_text(found.model_dump_json())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
