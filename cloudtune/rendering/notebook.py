"""A plan as a notebook for Colab, as bytes: nbformat 4.5, pinned, carrying our wheel, the job and small data. Pure.

The cells only call ``cloudtune_colab``, which is in the wheel; the training is the supervisor and trainer of every image.
Equal inputs give equal bytes: no time, no output, fixed cell names, bzip2 (whose output is the same in every version).
"""

from __future__ import annotations

import base64
import bz2
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from cloudtune.planning.buckets import sources
from cloudtune.planning.plan import Plan
from cloudtune.recipe.locations import is_remote
from cloudtune.rendering.bundle import Bundle
from cloudtune.rendering.channel import code_channel
from cloudtune.rendering.jobfile import MODEL_CHANNEL, LocalInput
from cloudtune.units import duration as spell

LETTERS = 8  # of the job's digest, in folder names
_LINE = 120


@dataclass(frozen=True, slots=True)
class Carried:
    """What of the user's data goes into the notebook: channel → content. ``fits``: Colab's names of GPUs that are enough."""

    data: Mapping[str, bytes] = field(default_factory=dict)
    fits: Sequence[str] = ()


def notebook(plan: Plan, bundle: Bundle, inputs: Sequence[LocalInput], digests: Mapping[str, str], carried: Carried) -> bytes:
    """The notebook's text. ``inputs`` that are not in ``carried``, and what is in buckets, are brought when it runs."""
    orders = json.loads(bundle.job["job.json"])
    # On Colab a secret is in the notebook's own store, whatever manager the recipe names for the clouds.
    orders["recipe"]["secrets"] = dict.fromkeys(sorted(orders["recipe"].get("secrets") or {}), "env")
    name = f"{plan.recipe.name}-{bundle.digest[:LETTERS]}"
    bring: dict[str, dict[str, str | None]] = {
        item.channel: {"name": item.source.name, "sha256": digests.get(item.channel)} for item in inputs if item.channel not in carried.data
    }
    for channel, uri in in_buckets(plan).items():
        bring[channel] = {"name": PurePosixPath(uri).name, "sha256": None, "from": uri}
    if MODEL_CHANNEL in bring:
        orders["model_path"] = MODEL_CHANNEL
    facts = {
        "name": name,
        "version": plan.cloudtune_version,
        "digest": bundle.digest,
        "lock": bundle.image["requirements.txt"].decode(),
        "bring": bring,
        "estimate": _estimate(plan, carried.fits),
    }
    files = {f"job/{path}": content for path, content in bundle.job.items() if path != "job.json"}
    cells = _cells(plan, facts, orders, _wheel(bundle, plan.cloudtune_version), {**files, **carried.data})
    body = {"cells": cells, "metadata": _metadata(plan, carried.fits), "nbformat": 4, "nbformat_minor": 5}
    return (json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def in_buckets(plan: Plan) -> dict[str, str]:
    """Path inside the job → address of what is in a bucket. No place brings it for a notebook: data is looked for under its address."""
    base = plan.recipe.model.base
    found = {source.path: source.path for source in sources(plan.recipe) if is_remote(source.path)}
    return found | ({MODEL_CHANNEL: base.rstrip("/")} if is_remote(base) else {})


def script(content: bytes) -> bytes:
    """The notebook's cells as one Python program, for a tool that runs programs: it ends with an exit code, as no notebook does."""
    parts = []
    for cell in json.loads(content)["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text = textwrap.indent(text, "# ", lambda _line: True)
        parts.append(f"# %% {cell['id']}\n{text}\n")
    return "\n".join(parts).encode()


def _wheel(bundle: Bundle, version: str) -> bytes:
    return next(content for name, content in code_channel(bundle.image, version).items() if name.endswith(".whl"))


def _estimate(plan: Plan, fits: Sequence[str]) -> dict[str, object]:
    memory = plan.memory
    return {
        "peak": memory.peak_bytes,
        "low": memory.low_bytes,
        "high": memory.high_bytes,
        "gpu": plan.chosen.gpu,
        "fits": list(fits),
    }


def _metadata(plan: Plan, fits: Sequence[str]) -> dict[str, object]:
    colab: dict[str, object] = {"provenance": []}
    found: dict[str, object] = {
        "colab": colab,
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    if plan.layout.gpus:
        found["accelerator"] = "GPU"
        colab["gpuType"] = fits[0] if fits else "T4"
    return found


def _cells(
    plan: Plan, facts: Mapping[str, object], orders: Mapping[str, object], wheel: bytes, files: Mapping[str, bytes]
) -> list[dict[str, object]]:
    return [
        _text("about", _about(plan, facts, files)),
        _code("settings", _SETTINGS),
        _code("carried", _carried(facts, orders, wheel, files), form=True),
        _code("machine", "job.check_machine()  # GPU and memory against the estimate, before anything is downloaded"),
        _code("install", "job.install()  # only what differs from the lock, in a folder of its own: nothing has to be restarted"),
        _code("data", "job.bring_data(DATA)  # what this notebook does not hold, each checked by its digest where that is known"),
        _code("keep", "job.keep_in(KEEP)  # opens Drive or the bucket, and takes up what an earlier machine left there"),
        _text("training", _TRAINING),
        _code("train", "job.train()"),
        _code("result", "job.show()  # losses, memory beside the estimate, and where the files are"),
        _code("check", "job.check_result()  # loads the result in a new process and measures it again"),
    ]


def _text(name: str, text: str) -> dict[str, object]:
    return {"cell_type": "markdown", "id": f"cloudtune-{name}", "metadata": {}, "source": text.splitlines(keepends=True)}


def _code(name: str, text: str, *, form: bool = False) -> dict[str, object]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": f"cloudtune-{name}",
        "metadata": {"cellView": "form"} if form else {},
        "outputs": [],
        "source": text.splitlines(keepends=True),
    }


_SETTINGS = """\
import os

#@title Settings
#@markdown Where checkpoints and results outlive this machine: `drive`, `gs://bucket/folder`, a folder, or empty for nowhere.
KEEP = "drive"  #@param {type:"string"}
#@markdown Where data is that this notebook does not carry: a folder, `gs://bucket/folder`, or empty for an upload.
DATA = ""  #@param {type:"string"}
# A run without a person says it in the environment instead.
KEEP = os.environ.get("CLOUDTUNE_NOTEBOOK_KEEP", KEEP)
DATA = os.environ.get("CLOUDTUNE_NOTEBOOK_DATA", DATA)"""

_TRAINING = """\
The next cell trains. The stop button saves a checkpoint; running the cell again goes on from it. On a new machine run all cells
from the top: what `KEEP` holds is taken up, and a job that is finished is not trained a second time."""

_CARRIED = """\
#@title What this notebook carries: the trainer, the job and small data
import base64, bz2, json, sys, tempfile
from pathlib import Path

JOB = json.loads(r'''
{orders}
''')
FACTS = json.loads(r'''
{facts}
''')
# The trainer's sources as a wheel, and files of the job: bzip2 in base64.
WHEEL = '''
{wheel}
'''
FILES = {{{files}}}

wheel = Path(tempfile.mkdtemp()) / "cloudtune_job.whl"
wheel.write_bytes(bz2.decompress(base64.b64decode(WHEEL)))
sys.path.insert(0, str(wheel))
import cloudtune_colab
from cloudtune_colab.inputs import unpacked

carried = {{name: unpacked(text) for name, text in FILES.items()}}
carried["job/job.json"] = (json.dumps(JOB, indent=2) + "\\n").encode()
job = cloudtune_colab.start(wheel.read_bytes(), FACTS, carried)"""


def _carried(facts: Mapping[str, object], orders: Mapping[str, object], wheel: bytes, files: Mapping[str, bytes]) -> str:
    packed = "".join(f"\n    {json.dumps(name)}: '''\n{_packed(content)}\n''',\n" for name, content in sorted(files.items()))
    return _CARRIED.format(orders=_json(orders), facts=_json(facts), wheel=_packed(wheel), files=packed)


def _json(value: object) -> str:
    """JSON that stands between three single quotes of a raw string: the only thing in it that could end that is a quote."""
    return json.dumps(value, indent=1, sort_keys=True).replace("'", "\\u0027")


def _packed(content: bytes) -> str:
    return "\n".join(textwrap.wrap(base64.b64encode(bz2.compress(content)).decode(), _LINE))


def _about(plan: Plan, facts: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """What this notebook is and how to run it, for somebody who has neither seen cloudtune nor this recipe."""
    data = ", ".join(name.rpartition("/")[2] for name in sorted(files) if not name.startswith("job/"))
    peak, kind = f"{plan.memory.peak_bytes / 2**30:.1f} GiB", "GPU memory" if plan.layout.gpus else "host memory"
    lines = [
        f"# {plan.recipe.name}: {plan.recipe.method.type} of {plan.recipe.model.base}",
        "",
        f"Written by `cloudtune render --target colab`, version {plan.cloudtune_version}, from a recipe. It runs the trainer of",
        "cloudtune's jobs on SageMaker, Vertex AI and laptops; nothing of it has to be published or installed before.",
        "",
        *(f"{number}. {step}" for number, step in enumerate(_steps(plan, facts), 1)),
        "",
        f"- Estimated peak: {peak} of {kind} (± {plan.memory.error_bar:.0%}); {plan.steps:,} optimizer steps.",
    ]
    lines += [f"- This notebook holds your data ({data}): share it as you would share that."] if data else []
    return "\n".join(lines)


def _steps(plan: Plan, facts: Mapping[str, Any]) -> list[str]:
    """What a person does, in order; each cell may be run again."""
    fits = facts["estimate"]["fits"]
    runtime = f"choose {' or '.join(fits)}; less is not enough." if fits else "any will do, no GPU is needed."
    steps = [f"`Runtime > Change runtime type`: {runtime}"]
    steps.append(f'First cell: where are results kept? With `KEEP = "drive"` that is the folder `cloudtune/{facts["name"]}` of your Drive.')
    far = [str(item["from"]) for item in facts["bring"].values() if item.get("from")]
    missing = [f"`{item.get('from') or item['name']}`" for item in facts["bring"].values() if not str(item.get("from")).startswith("gs://")]
    if missing:
        steps.append(
            f"This notebook does not hold {', '.join(missing)}: put it into a folder and name that in `DATA`, or be asked to upload it."
        )
    if any(uri.startswith("gs://") for uri in far):
        steps.append("Data in `gs://` is fetched with your own Google login, which Colab asks for.")
    if plan.recipe.secrets:
        names = ", ".join(f"`{name}`" for name in sorted(plan.recipe.secrets))
        steps.append(f"Put {names} into the notebook's secrets (the key in the side bar) and allow access. No value is in the notebook.")
    long = f" on {fits[0]}" if fits else ""
    steps.append(
        f"`Runtime > Run all`: about {spell(plan.hours * 3600)}{long}. The result is in `model/` of that folder, and its loss is below."
    )
    return steps
