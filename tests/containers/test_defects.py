"""Ten realistic faults of training data, each found by the dry run's own look at the data, with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloudtune.recipe.examination import EXAMINATION_NAME, FOLDER, ORDERS_NAME, Examination, RehearsalOrders
from cloudtune.recipe.quickstart import QUICKSTART_CONFIG
from cloudtune.recipe.resolved import JobFile
from cloudtune.rendering.shrink import shrunk_config
from cloudtune.verbs.render import render
from tests.containers.jobs import plan_of

pytestmark = pytest.mark.stack
TEMPLATE_WITHOUT_END = "{% for message in messages %}{{ message['role'] }}: \n{{ message['content'] }}\n{% endfor %}"


def chat(*turns: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def good(number: int) -> dict[str, object]:
    return chat(("user", f"What is {number} plus one?"), ("assistant", f"It is {number + 1}."))


GOOD = [good(number) for number in range(8)]
LONG = " ".join(f"word{number}" for number in range(200))


def lines(*rows: dict[str, object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


CASES = {
    "wrong-column": (lines(*GOOD[:3], {"conversations": []}), {}, 4),
    "mixed-roles": (lines(*GOOD[:2], chat(("assistant", "It is 2."), ("user", "What is 1 plus one?"))), {}, 3),
    "double-answer": (lines(*GOOD[:4], chat(("user", "a?"), ("assistant", "b"), ("assistant", "c"))), {}, 5),
    "no-end-of-turn": (lines(*GOOD), {"chat_template": "./plain.jinja"}, 2),
    "all-too-long": (lines(chat(("user", LONG), ("assistant", "no"))), {"max_length": 16}, 1),
    "empty-answer": (lines(*GOOD[:6], chat(("user", "Anything?"), ("assistant", "  "))), {}, 7),
    "wrong-encoding": (lines(*GOOD[:2]) + '{"messages": [{"role": "user", "content": "caf\xe9"}]}\n'.encode("latin-1"), {}, 3),
    "label-leak": (lines(GOOD[0], chat(("user", "Is it good?\nLabel: positive"), ("assistant", "positive"))), {}, 2),
    "duplicate-row": (lines(*GOOD[:5], GOOD[1]), {}, 6),
    "unreadable-row": (lines(*[good(number) for number in range(4710)]) + b'{"messages": [\n' + lines(GOOD[0]), {}, 4711),
}


def examine(folder: Path, content: bytes, data: dict[str, object], evaluation: bytes = b"") -> Examination:
    """Write recipe and data, and look at them as the dry run does inside the job. ``evaluation``: rows of an own file."""
    from cloudtune_rehearsal.__main__ import prepare
    from cloudtune_trainer.paths import Paths

    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_bytes(content)
    (folder / "plain.jinja").write_text(TEMPLATE_WITHOUT_END)
    held = {"eval": [{"path": "./held.jsonl", "rows": 10, "tokens": 1000}]} if evaluation else {}
    (folder / "held.jsonl").write_bytes(evaluation)
    settings = {"chat_template": "chatml", "max_length": 256, **held, **data}
    (folder / "recipe.yaml").write_text(
        "version: 1\nname: faulty\nmodel: {base: Qwen/Qwen3-0.6B}\nmethod: {type: lora}\n"
        f"data: {json.dumps({'train': [{'path': './rows.jsonl', 'rows': 10, 'tokens': 1000}], **settings})}\n"
    )
    plan = plan_of(folder / "recipe.yaml")
    bundle = render(plan)
    inputs = folder / "job" / "input" / "data"
    for name in ("job", FOLDER, "train", "eval"):
        (inputs / name).mkdir(parents=True)
    for name, body in bundle.job.items():
        (inputs / "job" / name).write_bytes(body)
    (inputs / "train" / "0-rows.jsonl").write_bytes(content)
    (inputs / "eval" / "0-held.jsonl").write_bytes(evaluation)
    orders = RehearsalOrders(
        job=JobFile.model_validate_json(bundle.job["job.json"]),
        config=shrunk_config(QUICKSTART_CONFIG),
        own_tokenizer=False,
        steps=4,
        sample_rows=8,
        most_rows=100,
        most_tokens=64,
    )
    (inputs / FOLDER / ORDERS_NAME).write_text(orders.model_dump_json())
    prepare(Paths(folder / "job", folder / "cache", "test"))
    return Examination.model_validate_json((folder / "job/output" / FOLDER / EXAMINATION_NAME).read_bytes())


@pytest.mark.parametrize("kind", CASES)
def test_each_fault_is_found_with_file_and_line(kind: str, tmp_path: Path):
    content, data, line = CASES[kind]
    found = examine(tmp_path, content, data)
    defect = next((item for item in found.defects if item.kind == kind), None)
    assert defect is not None, [item.kind for item in found.defects]
    expected = "job/chat_template.jinja" if kind == "no-end-of-turn" else "train/0-rows.jsonl"
    assert (defect.channel, defect.line) == (expected, line)
    assert defect.hint
    assert found.wrong is (kind != "duplicate-row")


def test_clean_data_has_no_defect_and_makes_a_small_job(tmp_path: Path):
    found = examine(tmp_path, lines(*GOOD), {})
    assert found.defects == ()
    assert (found.rows, found.kept_rows) == (8, 8)
    answer = "".join(stretch.text for stretch in found.samples[0].stretches if stretch.trained)
    assert answer.startswith("It is 1.")
    assert sum(bin_.rows for bin_ in found.lengths) == 8
    job = JobFile.model_validate_json((tmp_path / "job/input/data/job/job.json").read_bytes())
    assert job.recipe.training.max_steps == 4
    assert (tmp_path / "job/input/data/model/model.safetensors").exists()


def test_every_format_has_stand_in_rows_for_data_out_of_reach():
    from cloudtune.errors import JobFailed
    from cloudtune.recipe.rows import check_row
    from cloudtune_rehearsal.examine import stand_in_row

    for row_format in ("chat", "instruction", "completion", "text"):
        assert check_row(stand_in_row(row_format, 1), row_format, {}) is None
    with pytest.raises(JobFailed):
        stand_in_row("preference", 1)


def test_evaluation_rows_among_the_training_rows_are_found():
    from cloudtune_rehearsal.defects import Gathered, Memory, duplicate

    memory, gathered = Memory(), Gathered()
    for line, row in enumerate(GOOD, start=1):
        assert memory.meet(row, "train/a.jsonl", line) is None
    before = memory.meet(GOOD[4], "eval/b.jsonl", 2)
    assert before == ("train/a.jsonl", 5)
    gathered.add(duplicate("eval/b.jsonl", before, evaluation=True), "eval/b.jsonl", 2)
    (defect,) = gathered.defects()
    assert (defect.kind, defect.severity, defect.line) == ("eval-leak", "wrong", 2)
    assert "train/a.jsonl:5" in defect.what


def test_an_evaluation_row_that_is_there_twice_is_no_training_row(tmp_path: Path):
    found = examine(tmp_path, lines(*GOOD[:4]), {}, lines(GOOD[5], GOOD[6], GOOD[5]))
    (defect,) = found.defects
    assert (defect.kind, defect.channel, defect.line) == ("duplicate-eval-row", "eval/0-held.jsonl", 3)
    assert "line 1" in defect.what
    assert not found.wrong
    again = examine(tmp_path / "again", lines(*GOOD[:4]), {}, lines(GOOD[5], GOOD[2]))
    assert [(item.kind, item.line) for item in again.defects] == [("eval-leak", 2)]
    assert again.wrong


def test_made_up_rows_of_data_out_of_reach_are_no_defect(tmp_path: Path):
    sources = {part: [{"path": f"org/{part}", "rows": 10, "tokens": 1000}] for part in ("train", "eval")}
    found = examine(tmp_path, b"", sources)
    assert found.out_of_reach == ("org/train", "org/eval")
    assert found.defects == ()


def test_prompts_longer_than_the_small_model_reads_leave_something_to_learn(tmp_path: Path):
    from cloudtune_trainer.paths import Paths
    from cloudtune_trainer.surroundings import StopSign
    from cloudtune_trainer.train import train

    long = [chat(("user", f"{number}: {LONG[:300]}"), ("assistant", f"It is {number + 1}.")) for number in range(4)]
    found = examine(tmp_path, lines(*long), {"max_length": 2048})
    assert (found.kept_rows, found.dropped) == (4, ())
    paths = Paths(tmp_path / "job", tmp_path / "cache", "test")
    job = JobFile.model_validate_json(paths.job_file.read_bytes())
    assert job.recipe.data.loss_on == "all"
    assert train(job, paths, StopSign()) == "complete"
    # Where enough rows come to their answers in time, those are taken, and only answers are learned.
    examine(tmp_path / "mixed", lines(*long, *GOOD[:4]), {"max_length": 2048})
    mixed = JobFile.model_validate_json((tmp_path / "mixed/job/input/data/job/job.json").read_bytes())
    assert mixed.recipe.data.loss_on == "completion"
    assert len((tmp_path / "mixed/job/input/data" / mixed.train[0].path).read_text().splitlines()) == 4
