"""The recipe: what the user wants, as strict frozen values. Reads no file, touches no network.

A recipe is version 1 of a YAML document; ``recipe/load.py`` turns text into these models and places every
fault on its line. Names follow what users of transformers, peft and Axolotl already write. ``auto`` means
that the planner decides and says what it chose; ``JobFile`` in ``recipe/resolved.py`` has no ``auto`` left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WrapValidator, model_validator
from pydantic_core import PydanticCustomError, ValidationError

from cloudtune.recipe import rules

RECIPE_VERSION = 1


class Frozen(BaseModel):
    """Base of all written values: unknown keys refused, no silent conversion, immutable."""

    # The docstrings below the fields are read from the source when a reference is made (recipe/keys.py):
    # use_attribute_docstrings would read them at every start and cost 13 ms.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class Says:
    """Words for what a value must be, where the type alone does not say it; used in messages and in the reference."""

    words: str


def _one_fault(value: Any, handler: Any) -> Any:
    """One fault for a union instead of one per branch."""
    try:
        return handler(value)
    except ValidationError as error:
        raise PydanticCustomError("no_branch", "none of the allowed values") from error


_ONE_FAULT = WrapValidator(_one_fault)

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(ge=1, le=10**15), Says("a whole number of at least 1")]
SmallInt = Annotated[int, Field(ge=1, le=2**20), Says("a whole number of at least 1")]
PositiveFloat = Annotated[float, Field(gt=0, le=1e15), Says("a number above 0")]
Fraction = Annotated[float, Field(ge=0, lt=1), Says("a number from 0 to below 1")]
IntOrAuto = Annotated[SmallInt | Auto, _ONE_FAULT]
StepsOrAuto = Annotated[PositiveInt | Auto, _ONE_FAULT]
RateOrAuto = Annotated[Annotated[float, Field(gt=0, le=10), Says("a number above 0, at most 10")] | Auto, _ONE_FAULT]
BoolOrAuto = Annotated[bool | Auto, _ONE_FAULT]
# No control characters: these become paths, labels and lines of text files.
Text = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]+$"), Says("text on one line")]
Strings = Annotated[tuple[Text, ...], Field(strict=False), Says("a list of names")]
Ints = Annotated[tuple[Annotated[int, Field(ge=0, le=2**31)], ...], Field(strict=False), Says("a list of whole numbers from 0")]

Optimizer = Literal[
    "adamw_torch_fused",
    "adamw_torch",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "lion_8bit",
    "adafactor",
    "sgd",
]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"]
ModuleNames = Annotated[tuple[Text, ...], Field(strict=False, min_length=1), Says("a list of module names such as [q_proj, v_proj]")]
Targets = Annotated[Literal["all-linear", "attention"] | ModuleNames, _ONE_FAULT]


class ModelSpec(Frozen):
    """The base model."""

    base: Annotated[Text, Says("a hub id, a folder, an s3:// or gs:// folder, or builtin:quickstart")]
    """Hub id, local folder (./ or / first), s3:// or gs:// folder, or builtin:quickstart."""
    revision: Text = "main"
    """Branch, tag or commit on the hub; the plan pins it to a commit."""
    config: Annotated[Text, Says("the path of a config.json")] | None = None
    """Path of a config.json to take the model's shape from when the hub is out of reach."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Computing precision on the GPU."""
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    """Attention kernel; auto takes sdpa."""
    trust_remote_code: bool = False
    """Run the model repository's own Python code inside the job."""


class FullMethod(Frozen):
    """Every weight is trained."""

    type: Literal["full"]


class LoraMethod(Frozen):
    """Low-rank adapters on a frozen 16-bit base."""

    type: Literal["lora"]
    r: Annotated[SmallInt, Says("a whole number of at least 1, usually 8 to 64")] = 16
    """Rank of the adapters."""
    alpha: PositiveFloat = 32.0
    """Scale; the update is multiplied by alpha / r (alpha / sqrt(r) with use_rslora)."""
    dropout: Fraction = 0.0
    """Probability of zeroing an adapter's input."""
    target_modules: Targets = "all-linear"
    """Modules that get an adapter: all-linear, attention, or a list of names."""
    target_parameters: Strings = ()
    """Fused expert tensors of mixture-of-experts models that get an adapter."""
    init: Literal["default", "pissa", "olora", "gaussian"] = "default"
    """How the adapters start."""
    trainable_tokens: Ints = ()
    """Ids of new tokens whose embeddings are trained."""
    modules_to_save: Strings = ()
    """Further modules trained in full and saved with the adapter."""
    use_dora: bool = False
    """Weight-decomposed adapters (DoRA)."""
    use_rslora: bool = False
    """Rank-stabilised scaling."""


class QloraMethod(LoraMethod):
    """Low-rank adapters on a frozen quantised base (bitsandbytes)."""

    type: Literal["qlora"]  # type: ignore[assignment]
    quantization: Literal["nf4", "fp4", "int8"] = "nf4"
    """4-bit normal float, 4-bit float, or 8-bit (LLM.int8)."""
    double_quant: bool = True
    """Quantise the 4-bit scales too; saves about 0.37 bit per weight. Not used by int8."""


Method = Annotated[FullMethod | LoraMethod | QloraMethod, Field(discriminator="type")]
RowFormat = Literal["chat", "instruction", "completion", "text", "preference"]


class DataSource(Frozen):
    """One file or data set."""

    path: Annotated[Text, Says("a file, an s3:// or gs:// URI, or a hub data set id")]
    """Local file (.jsonl, .json, .csv, .parquet, .txt), s3:// or gs:// URI, or a hub data set id."""
    format: RowFormat = "chat"
    """chat: messages; instruction: instruction, input, output; completion: prompt, completion; text: text;
    preference: prompt, chosen, rejected."""
    split: Text = "train"
    """Split of a hub data set."""
    columns: Annotated[dict[Text, Text], Says("a mapping of our field names to the file's columns")] = {}
    """Our field name -> the file's column name."""
    rows: PositiveInt | None = None
    """Number of rows, when the data is out of reach while planning."""
    tokens: PositiveInt | None = None
    """Number of tokens, when the data is out of reach while planning."""


EvalFraction = Annotated[float, Field(gt=0, lt=1), Says("a fraction above 0 and below 1")]
Sources = Annotated[tuple[DataSource, ...], Field(strict=False, min_length=1), Says("a list of sources")]


def _kind_of_eval(value: Any) -> str:
    return "none" if value is None else "sources" if isinstance(value, (list, tuple)) else "fraction"


Evaluation = Annotated[
    Annotated[EvalFraction, Tag("fraction")] | Annotated[Sources, Tag("sources")] | Annotated[None, Tag("none")],
    Discriminator(_kind_of_eval),
]
SpecialToken = Literal["pad", "eos", "bos", "unk", "end_of_turn"]


class DataSpec(Frozen):
    """What to train and evaluate on."""

    train: Sources
    """One or more sources; their rows are put together."""
    eval: Evaluation = None
    """Fraction of the training rows held out, a list like train, or null for no evaluation."""
    max_length: Annotated[int, Field(ge=8, le=2**24), Says("a whole number of tokens, at least 8")] = 2048
    """Longest sequence in tokens; longer rows are cut."""
    packing: bool = False
    """Put several short rows into one sequence; rows do not see each other."""
    loss_on: Literal["completion", "all"] = "completion"
    """Which tokens are learned: answers only, or everything. Text rows are always learned whole."""
    chat_template: Annotated[Text, Says("tokenizer, chatml, llama3 or the path of a .jinja file")] = "tokenizer"
    """tokenizer, chatml, llama3, or the path of a .jinja file."""
    special_tokens: Annotated[dict[SpecialToken, Text], Says("a mapping with the keys pad, eos, bos, unk, end_of_turn")] = {}
    """Overrides of the tokenizer's special tokens."""


class TrainingSpec(Frozen):
    """How to train."""

    epochs: PositiveFloat | None = None
    """Passes over the data; 3 when neither epochs nor max_steps is given."""
    max_steps: PositiveInt | None = None
    """Optimizer steps, instead of epochs."""
    batch_size: SmallInt = 16
    """Sequences per optimizer step over all GPUs = micro batch x accumulation x data parallel."""
    micro_batch_size: IntOrAuto = "auto"
    """Sequences on one GPU at a time."""
    learning_rate: RateOrAuto = "auto"
    """Peak learning rate; auto is 2e-4 for adapters and 2e-5 for full training."""
    lr_scheduler: Scheduler = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup_ratio: Fraction | None = None
    """Fraction of the steps spent warming up; 0.03 when warmup_steps is not given either."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**15), Says("a whole number of steps, at least 0")] | None = None
    """Optimizer steps spent warming up, instead of warmup_ratio."""
    adam_betas: Annotated[
        tuple[Fraction, Fraction], Field(strict=False), Says("a list of two numbers from 0 to below 1, such as [0.9, 0.999]")
    ] = (0.9, 0.999)
    """Decay of AdamW's two running means."""
    neftune_noise_alpha: PositiveFloat | None = None
    """Noise added to embeddings while training (NEFTune); null for none."""
    weight_decay: Annotated[float, Field(ge=0, le=10), Says("a number from 0 to 10")] = 0.0
    """Pull of the weights towards zero per step."""
    max_grad_norm: PositiveFloat = 1.0
    """Longer gradients are shortened to this length."""
    optimizer: Optimizer = "adamw_torch_fused"
    """The 8-bit and paged kinds come from bitsandbytes and save memory."""
    gradient_checkpointing: BoolOrAuto = "auto"
    """Recompute activations in the backward pass: less memory, about a third more time."""
    fused_loss: BoolOrAuto = "auto"
    """Cross-entropy without the full logits tensor."""
    seed: Annotated[int, Field(ge=0, lt=2**32), Says("a whole number from 0 to 4294967295")] = 42
    """Start of every random choice: data order, adapters, held-out rows."""
    save_steps: StepsOrAuto = "auto"
    """Optimizer steps between checkpoints; auto goes by minutes."""
    eval_steps: StepsOrAuto = "auto"
    """Optimizer steps between evaluations."""
    early_stopping_patience: PositiveInt | None = None
    """Evaluations without improvement before the run stops; null never stops early."""


class AwsSpec(Frozen):
    """What a job on SageMaker needs of your account's network and keys."""

    subnets: Strings = ()
    """Subnet ids for a job inside your own network."""
    security_groups: Strings = ()
    """Security group ids, needed with subnets."""
    kms_key: Text | None = None
    """Key that encrypts the job's disks and results."""
    network_isolation: bool = False
    """No network at all inside the job: the model must be staged."""
    keep_alive_minutes: Annotated[int, Field(ge=0, le=60), Says("a whole number of minutes from 0 to 60")] = 0
    """Minutes that machines are kept for the next job (warm pool); billed."""
    training_plan: Text | None = None
    """ARN of a SageMaker training plan with reserved machines."""
    fallback_instances: Strings = ()
    """Further instance types to try when the first is sold out."""


class GcpSpec(Frozen):
    """What a job on Vertex AI needs of your project."""

    service_account: Text | None = None
    """E-mail of the account that the job runs as."""
    network: Text | None = None
    """Full name of a VPC network to run in."""
    reservation: Text | None = None
    """Name of a reservation to draw machines from."""
    kms_key: Text | None = None
    """Key that encrypts the job's disks and results."""


class ComputeSpec(Frozen):
    """Where the job may run."""

    provider: Literal["auto", "aws", "gcp", "local"] = "auto"
    """auto compares all clouds you have settings for; local is this machine."""
    regions: Annotated[tuple[Text, ...], Field(strict=False, min_length=1), Says("a list of regions such as [us-east-1]")] = (
        "us-east-1",
        "us-central1",
    )
    """Regions to look for machines in."""
    instance: Annotated[Text, Says("a machine type such as ml.g5.2xlarge or g2-standard-8, or auto")] = "auto"
    """Machine type such as ml.g5.2xlarge or g2-standard-8; auto takes the cheapest that fits."""
    nodes: IntOrAuto = "auto"
    """Machines that train together."""
    purchase: Literal["any", "on_demand", "spot", "flex_start"] = "any"
    """spot is cheaper and may be interrupted; flex_start waits for a machine (Google Cloud)."""
    max_hours: PositiveFloat | None = None
    """Hard limit of the run's wall time in hours."""
    disk_gib: IntOrAuto = "auto"
    """Disk of each machine in GiB."""
    aws: AwsSpec = AwsSpec()
    """What a job on SageMaker needs besides."""
    gcp: GcpSpec = GcpSpec()
    """What a job on Vertex AI needs besides."""


class BudgetSpec(Frozen):
    """What the job may cost."""

    max_usd: PositiveFloat | None = None
    """Hard limit in US dollars; becomes a time limit on the provider's side."""
    objective: Literal["cheapest", "fastest"] = "cheapest"
    """What to prefer among the machines that fit."""


class TrackingSpec(Frozen):
    """Where metrics are reported besides metrics.jsonl."""

    report_to: Annotated[
        tuple[Literal["tensorboard", "wandb", "mlflow"], ...], Field(strict=False), Says("a list of tensorboard, wandb, mlflow")
    ] = ()
    """Trackers to send metrics to."""
    project: Text | None = None
    """The tracker's project or experiment."""


class OutputSpec(Frozen):
    """What to bring home."""

    dir: Text = "./runs"
    """Folder for results, relative to the current folder."""
    merge: bool = False
    """Also save base and adapter merged into one model."""
    push_to_hub: Annotated[Text, Says("a hub repository such as me/my-model")] | None = None
    """Hub repository to upload the result to."""


SecretSource = Annotated[
    str,
    Field(pattern=r"^(env|aws:secretsmanager:[A-Za-z0-9/_+=.@-]{1,512}|gcp:secretmanager:[A-Za-z0-9_/-]{1,255})$"),
    Says("env, aws:secretsmanager:NAME or gcp:secretmanager:NAME"),
]
SecretName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200), Says("the name of an environment variable")]
JobName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"),
    Says("lower-case letters, digits and hyphens, at most 40, no hyphen at the ends"),
]


def _whole(value: object) -> object:
    """``true`` and ``1.0`` equal 1 in Python; in a recipe they are mistakes."""
    return value if type(value) is int else str(value)


class Recipe(Frozen):
    """One fine-tuning job as its author wrote it. Equal recipes have equal digests."""

    version: Annotated[Literal[1], BeforeValidator(_whole)]
    """Version of this format: 1."""
    name: JobName
    """Name of the job: lower-case letters, digits and hyphens, at most 40."""
    model: ModelSpec
    """The model to start from."""
    task: Literal["causal_lm", "masked_lm", "preference"] = "causal_lm"
    """causal_lm predicts the next token, masked_lm hidden ones (encoders), preference trains on pairs."""
    method: Method
    """Full training, adapters, or adapters on a quantised base."""
    data: DataSpec
    """What to train and evaluate on."""
    training: TrainingSpec = TrainingSpec()
    """How to train."""
    compute: ComputeSpec = ComputeSpec()
    """Where the job may run."""
    budget: BudgetSpec = BudgetSpec()
    """What the job may cost."""
    tracking: TrackingSpec = TrackingSpec()
    """Where metrics are reported besides metrics.jsonl."""
    secrets: Annotated[dict[SecretName, SecretSource], Says("a mapping of environment variable names to sources")] = {}
    """Environment variable -> where its value comes from: env, aws:secretsmanager:NAME, gcp:secretmanager:NAME."""
    output: OutputSpec = OutputSpec()
    """What to bring home."""

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        faults = rules.conflicts(self.model_dump(mode="json", exclude_unset=True))
        if faults:
            raise PydanticCustomError(rules.ERROR_TYPE, "{text}", {"text": "; ".join(map(str, faults)), "faults": faults})
        return self
