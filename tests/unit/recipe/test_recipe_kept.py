"""Every key that a recipe may have is read by the code that keeps its promise. A new key fails here until it is kept, or refused."""

import ast
from functools import cache
from pathlib import Path

import pytest

from cloudtune.recipe.keys import all_keys

ROOT = Path(__file__).resolve().parents[3]
TRAINER = "containers/trainer/cloudtune_trainer"
# key → the file that keeps it, where the attribute of that name must be read
KEPT = {
    "model.base": f"{TRAINER}/model.py",
    "model.revision": f"{TRAINER}/model.py",
    "model.config": "cloudtune/verbs/market.py",
    "model.dtype": f"{TRAINER}/model.py",
    "model.attention": f"{TRAINER}/model.py",
    "model.trust_remote_code": f"{TRAINER}/model.py",
    "task": f"{TRAINER}/model.py",
    "method.r": f"{TRAINER}/model.py",
    "method.alpha": f"{TRAINER}/model.py",
    "method.dropout": f"{TRAINER}/model.py",
    "method.target_modules": f"{TRAINER}/model.py",
    "method.target_parameters": f"{TRAINER}/model.py",
    "method.init": f"{TRAINER}/model.py",
    "method.trainable_tokens": f"{TRAINER}/model.py",
    "method.modules_to_save": f"{TRAINER}/model.py",
    "method.use_dora": f"{TRAINER}/model.py",
    "method.use_rslora": f"{TRAINER}/model.py",
    "method.quantization": f"{TRAINER}/model.py",
    "method.double_quant": f"{TRAINER}/model.py",
    "data.train[].path": "cloudtune/sources/stats.py",
    "data.train[].format": f"{TRAINER}/data.py",
    "data.train[].split": f"{TRAINER}/data.py",
    "data.train[].columns": f"{TRAINER}/data.py",
    "data.train[].rows": "cloudtune/sources/stats.py",
    "data.train[].tokens": "cloudtune/sources/stats.py",
    "data.eval": f"{TRAINER}/data.py",
    "data.max_length": f"{TRAINER}/data.py",
    "data.packing": f"{TRAINER}/train.py",
    "data.loss_on": f"{TRAINER}/tokens.py",
    "data.chat_template": f"{TRAINER}/model.py",
    "data.special_tokens": f"{TRAINER}/model.py",
    "training.epochs": f"{TRAINER}/train.py",
    "training.max_steps": f"{TRAINER}/train.py",
    "training.batch_size": "cloudtune/planning/layout.py",
    "training.micro_batch_size": "cloudtune/planning/layout.py",
    "training.learning_rate": f"{TRAINER}/schedule.py",
    "training.lr_scheduler": f"{TRAINER}/schedule.py",
    "training.warmup_ratio": f"{TRAINER}/schedule.py",
    "training.warmup_steps": f"{TRAINER}/schedule.py",
    "training.adam_betas": f"{TRAINER}/optimizers.py",
    "training.neftune_noise_alpha": f"{TRAINER}/learner.py",
    "training.weight_decay": f"{TRAINER}/optimizers.py",
    "training.max_grad_norm": f"{TRAINER}/train.py",
    "training.optimizer": f"{TRAINER}/optimizers.py",
    "training.gradient_checkpointing": "cloudtune/planning/layout.py",
    "training.fused_loss": f"{TRAINER}/learner.py",
    "training.seed": f"{TRAINER}/train.py",
    "training.save_steps": f"{TRAINER}/train.py",
    "training.eval_steps": f"{TRAINER}/train.py",
    "training.early_stopping_patience": f"{TRAINER}/train.py",
    "compute.provider": "cloudtune/verbs/market.py",
    "compute.regions": "cloudtune/verbs/market.py",
    "compute.instance": "cloudtune/planning/limits.py",
    "compute.nodes": "cloudtune/planning/choose.py",
    "compute.purchase": "cloudtune/planning/limits.py",
    "compute.max_hours": "cloudtune/planning/limits.py",
    "compute.disk_gib": "cloudtune/planning/resolve.py",
    "compute.aws.subnets": "cloudtune/providers/aws/request.py",
    "compute.aws.security_groups": "cloudtune/providers/aws/request.py",
    "compute.aws.kms_key": "cloudtune/providers/aws/request.py",
    "compute.aws.network_isolation": "cloudtune/providers/aws/request.py",
    "compute.aws.keep_alive_minutes": "cloudtune/providers/aws/machines.py",
    "compute.aws.training_plan": "cloudtune/providers/aws/machines.py",
    "compute.aws.fallback_instances": "cloudtune/providers/aws/machines.py",
    "compute.gcp.service_account": "cloudtune/providers/gcp/request.py",
    "compute.gcp.network": "cloudtune/providers/gcp/request.py",
    "compute.gcp.reservation": "cloudtune/providers/gcp/request.py",
    "compute.gcp.kms_key": "cloudtune/providers/gcp/request.py",
    "budget.max_usd": "cloudtune/planning/limits.py",
    "budget.objective": "cloudtune/planning/ways.py",
    "tracking.report_to": f"{TRAINER}/trackers.py",
    "tracking.project": f"{TRAINER}/trackers.py",
    "secrets": "cloudtune/providers/gcp/request.py",
    "output.dir": "cloudtune/verbs/launch.py",
    "output.merge": f"{TRAINER}/leaving.py",
    "output.push_to_hub": f"{TRAINER}/artifacts.py",
}
# version is checked by the schema, the name becomes labels and folders, type chooses among the classes of methods
BY_THE_SCHEMA = {"version", "name", "method.type"}


@cache
def attributes(file: str) -> frozenset[str]:
    """Names of the attributes that a source file reads."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return frozenset(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load))


def leaves() -> set[str]:
    """Keys that hold a value and no further keys of ours."""
    keys = set(all_keys())
    return {key for key in keys if not any(other.startswith((f"{key}.", f"{key}[].")) for other in keys)} - BY_THE_SCHEMA


def test_the_table_names_every_key():
    assert set(KEPT) == leaves()
    assert len(KEPT) == 76


@pytest.mark.parametrize("key", sorted(KEPT))
def test_the_key_is_read_where_it_is_kept(key):
    assert key.rpartition(".")[2] in attributes(KEPT[key])
