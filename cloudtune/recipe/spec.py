"""The recipe: what the user wants, as strict frozen values. Reads no file, touches no network.

A recipe is version 1 of a YAML document; ``recipe/load.py`` turns text into these models and places every
fault on its line. Names follow what users of transformers, peft and Axolotl already write. ``auto`` means
that the planner decides and says what it chose; ``JobFile`` in ``recipe/resolved.py`` has no ``auto`` left.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WrapValidator, model_validator
from pydantic_core import PydanticCustomError, ValidationError

from cloudtune.recipe import rules

RECIPE_VERSION = 1


class Frozen(BaseModel):
    """Base of all written values: unknown keys refused, no silent conversion, immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True, use_attribute_docstrings=True
    )


def _or_auto(expected: str) -> WrapValidator:
    """One clear fault for a union with ``auto`` instead of one fault per branch."""

    def check(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("or_auto", "{expected}", {"expected": expected}) from error

    return WrapValidator(check)


Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
IntOrAuto = Annotated[PositiveInt | Auto, _or_auto("a whole number of at least 1, or auto")]
FloatOrAuto = Annotated[PositiveFloat | Auto, _or_auto("a number above 0, or auto")]
BoolOrAuto = Annotated[bool | Auto, _or_auto("true, false or auto")]
Strings = Annotated[tuple[str, ...], Field(strict=False)]
Ints = Annotated[tuple[int, ...], Field(strict=False)]

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
Targets = Annotated[
    Literal["all-linear", "attention"] | Annotated[tuple[str, ...], Field(strict=False, min_length=1)],
    _or_auto("all-linear, attention or a list of module names such as [q_proj, v_proj]"),
]


class ModelSpec(Frozen):
    """The base model."""

    base: Annotated[str, Field(min_length=1)]
    """Hub id, local folder (./ or / first), s3:// or gs:// folder, or builtin:quickstart."""
    revision: str = "main"
    """Branch, tag or commit on the hub; the plan pins it to a commit."""
    config: str | None = None
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
    r: PositiveInt = 16
    """Rank of the adapters."""
    alpha: PositiveFloat = 32
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

    path: Annotated[str, Field(min_length=1)]
    """Local file (.jsonl, .json, .csv, .parquet, .txt), s3:// or gs:// URI, or a hub data set id."""
    format: RowFormat = "chat"
    """chat: messages; instruction: instruction, input, output; completion: prompt, completion; text: text."""
    split: str = "train"
    """Split of a hub data set."""
    columns: dict[str, str] = {}
    """Our field name -> the file's column name."""
    rows: PositiveInt | None = None
    """Number of rows, when the data is out of reach while planning."""
    tokens: PositiveInt | None = None
    """Number of tokens, when the data is out of reach while planning."""


EvalFraction = Annotated[float, Field(gt=0, lt=1)]
Sources = Annotated[tuple[DataSource, ...], Field(strict=False, min_length=1)]


class DataSpec(Frozen):
    """What to train and evaluate on."""

    train: Sources
    """One or more sources; their rows are put together."""
    eval: EvalFraction | Sources | None = None
    """Fraction of the training rows held out, a list like train, or null for no evaluation."""
    max_length: PositiveInt = 2048
    """Longest sequence in tokens; longer rows are cut."""
    packing: bool = False
    """Put several short rows into one sequence; rows do not see each other."""
    loss_on: Literal["completion", "all"] = "completion"
    """Which tokens are learned: answers only, or everything. Text rows are always learned whole."""
    chat_template: str = "tokenizer"
    """tokenizer, chatml, llama3, or the path of a .jinja file."""
    special_tokens: dict[Literal["pad", "eos", "bos", "unk", "end_of_turn"], str] = {}
    """Overrides of the tokenizer's special tokens."""


class TrainingSpec(Frozen):
    """How to train."""

    epochs: PositiveFloat | None = None
    """Passes over the data; 3 when neither epochs nor max_steps is given."""
    max_steps: PositiveInt | None = None
    """Optimizer steps, instead of epochs."""
    batch_size: PositiveInt = 16
    """Sequences per optimizer step over all GPUs = micro batch x accumulation x data parallel."""
    micro_batch_size: IntOrAuto = "auto"
    """Sequences on one GPU at a time."""
    learning_rate: FloatOrAuto = "auto"
    """Peak learning rate; auto is 2e-4 for adapters and 2e-5 for full training."""
    lr_scheduler: Scheduler = "cosine"
    warmup_ratio: Fraction | None = None
    """Fraction of the steps spent warming up; 0.03 when warmup_steps is not given either."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    adam_betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = (0.9, 0.999)
    neftune_noise_alpha: PositiveFloat | None = None
    """Noise added to embeddings while training (NEFTune); null for none."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: PositiveFloat = 1.0
    optimizer: Optimizer = "adamw_torch_fused"
    gradient_checkpointing: BoolOrAuto = "auto"
    """Recompute activations in the backward pass: less memory, about a third more time."""
    fused_loss: BoolOrAuto = "auto"
    """Cross-entropy without the full logits tensor."""
    seed: Annotated[int, Field(ge=0)] = 42
    save_steps: IntOrAuto = "auto"
    """Optimizer steps between checkpoints; auto goes by minutes."""
    eval_steps: IntOrAuto = "auto"
    """Optimizer steps between evaluations."""
    early_stopping_patience: PositiveInt | None = None
    """Evaluations without improvement before the run stops; null never stops early."""


class AwsSpec(Frozen):
    """What a job on SageMaker needs of your account's network and keys."""

    subnets: Strings = ()
    security_groups: Strings = ()
    kms_key: str | None = None
    network_isolation: bool = False
    keep_alive_minutes: Annotated[int, Field(ge=0, le=60)] = 0
    training_plan: str | None = None
    fallback_instances: Strings = ()


class GcpSpec(Frozen):
    """What a job on Vertex AI needs of your project."""

    service_account: str | None = None
    network: str | None = None
    reservation: str | None = None
    kms_key: str | None = None


class ComputeSpec(Frozen):
    """Where the job may run."""

    provider: Literal["auto", "aws", "gcp", "local"] = "auto"
    regions: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = ("us-east-1", "us-central1")
    instance: str = "auto"
    """Machine type such as ml.g5.2xlarge or g2-standard-8; auto takes the cheapest that fits."""
    nodes: IntOrAuto = "auto"
    purchase: Literal["any", "on_demand", "spot", "flex_start"] = "any"
    max_hours: PositiveFloat | None = None
    """Hard limit of the run's wall time in hours."""
    disk_gib: IntOrAuto = "auto"
    aws: AwsSpec = AwsSpec()
    gcp: GcpSpec = GcpSpec()


class BudgetSpec(Frozen):
    """What the job may cost."""

    max_usd: PositiveFloat | None = None
    """Hard limit in US dollars; becomes a time limit on the provider's side."""
    objective: Literal["cheapest", "fastest"] = "cheapest"


class TrackingSpec(Frozen):
    """Where metrics are reported besides metrics.jsonl."""

    report_to: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], Field(strict=False)] = ()
    project: str | None = None


class OutputSpec(Frozen):
    """What to bring home."""

    dir: str = "./runs"
    """Folder for results, relative to the current folder."""
    merge: bool = False
    """Also save base and adapter merged into one model."""
    push_to_hub: str | None = None
    """Hub repository to upload the result to."""


SecretSource = Annotated[
    str, Field(pattern=r"^(env|aws:secretsmanager:[A-Za-z0-9/_+=.@-]{1,512}|gcp:secretmanager:[A-Za-z0-9_/-]{1,255})$")
]
SecretName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Recipe(Frozen):
    """One fine-tuning job as its author wrote it. Equal recipes have equal digests."""

    version: Literal[1]
    """Version of this format: 1."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
    """Name of the job: lower-case letters, digits and hyphens, at most 40."""
    model: ModelSpec
    task: Literal["causal_lm", "masked_lm", "preference"] = "causal_lm"
    """causal_lm predicts the next token, masked_lm hidden ones (encoders), preference trains on pairs."""
    method: Method
    data: DataSpec
    training: TrainingSpec = TrainingSpec()
    compute: ComputeSpec = ComputeSpec()
    budget: BudgetSpec = BudgetSpec()
    tracking: TrackingSpec = TrackingSpec()
    secrets: dict[SecretName, SecretSource] = {}
    """Environment variable -> where its value comes from: env, aws:secretsmanager:NAME, gcp:secretmanager:NAME."""
    output: OutputSpec = OutputSpec()

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        faults = rules.conflicts(self.model_dump(mode="json", exclude_unset=True))
        if faults:
            raise PydanticCustomError(rules.ERROR_TYPE, "{text}", {"text": "; ".join(map(str, faults)), "faults": faults})
        return self
