"""transformers.Trainer, told to train one trial and nothing else."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.neftune import deactivate_neftune

from sweeper.config import TrialSettings
from sweeper.engines.batches import Batch, Row, collate
from sweeper.engines.order import EffectiveBatches
from sweeper.engines.unpadded import logits
from sweeper.messages import TrialSpec
from sweeper.models import modeling
from sweeper.models.modeling import BaseModel

SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


class TrialTrainer(Trainer):  # type: ignore[misc]
    """Trains `model` on `rows` in the given order; loss at labelled positions alone.

    The whole trial is one pass for Trainer: `order` already holds every epoch, so that going on in the
    middle is the same wherever that is. Checkpoints are Trainer's own, written where `callback` asks for one.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        base: BaseModel,
        model: Any,
        spec: TrialSpec,
        rows: Sequence[Row],
        order: EffectiveBatches,
        folder: Path,
        callback: TrainerCallback,
    ) -> None:
        self._base = base
        self._smoothing = spec.settings.label_smoothing
        self._full = spec.settings.method == "full"
        self._losses: list[Tensor] = []
        self._tokens = 0
        pad = base.tokenizer.pad_token_id
        self._loader: DataLoader[Any] = DataLoader(
            rows,  # type: ignore[arg-type]
            batch_sampler=order,
            collate_fn=lambda some: collate(some, base.kind, pad),
        )
        super().__init__(model, _arguments(spec, order, base, folder), callbacks=[callback])
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> "DataLoader[Any]":
        return self._loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: Any
    ) -> tuple[list[Batch], int]:
        """The micro-batches of one step and the number of labels in them, which the loss is divided by."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        return batches, sum(len(batch["targets"]) for batch in batches)

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: int | None = None
    ) -> Tensor:
        loss, nats = losses(model, self._base, inputs, self._smoothing, autocast=self._full)
        self._losses.append(nats)
        self._tokens += len(inputs["targets"])
        return loss / (num_items_in_batch or len(inputs["targets"]))

    def take_losses(self) -> tuple[float, int]:
        """Nats, without label smoothing, and tokens since the last call."""
        nats, tokens = float(sum(self._losses)), self._tokens
        self._losses, self._tokens = [], 0
        return nats, tokens

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        modeling.save(self.model, Path(output_dir or self.args.output_dir))

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: Trainer would look at every parameter for each micro-batch."""
        return 0

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """As Trainer asks for it when it resumes; by itself it would leave experts of a full model out."""
        if self._full:
            modeling.restore(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def restore(self, checkpoint: Path) -> None:
        """Put the weights of a checkpoint on the model."""
        self._load_from_checkpoint(str(checkpoint), self.model)

    def let_go(self) -> None:
        """Leave nothing on the model, also after an exception."""
        # Trainer does so itself at the end of a training that comes to its end.
        if (handle := getattr(self, "neftune_hook_handle", None)) is not None:
            deactivate_neftune(self.model, handle, self.accelerator)


def losses(
    model: Any, base: BaseModel, batch: Batch, smoothing: float = 0.0, autocast: bool = False
) -> tuple[Tensor, Tensor]:
    """Summed over the batch's targets: the loss to train on, and the plain log-likelihood in nats.

    Rows that don't count the same count by their weight in the first. As weights are 1 on average over the
    training rows, what it is divided by stays the number of targets.
    """
    cuda = base.device.type == "cuda"
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast and cuda):
        scores = logits(model, base.kind, batch)
    weights = batch.get("weights")
    if weights is None:
        loss = F.cross_entropy(scores, batch["targets"], reduction="sum", label_smoothing=smoothing)
    else:
        each = F.cross_entropy(scores, batch["targets"], reduction="none", label_smoothing=smoothing)
        loss = (each * weights).sum()
    if not smoothing and weights is None:
        return loss, loss.detach()
    with torch.no_grad():
        return loss, F.cross_entropy(scores, batch["targets"], reduction="sum")


def gradients(model: Any, base: BaseModel, batch: Batch, settings: TrialSettings) -> None:
    """One forward and backward pass, waited for."""
    backward(model, base, batch, settings)
    model.zero_grad()
    wait_for(base.device)


def backward(model: Any, base: BaseModel, batch: Batch, settings: TrialSettings) -> None:
    """Add the gradients of a batch's loss to those that are there."""
    model.train()
    batch = {name: tensor.to(base.device) for name, tensor in batch.items()}
    loss, _ = losses(model, base, batch, settings.label_smoothing, autocast=settings.method == "full")
    loss.backward()  # type: ignore[no-untyped-call]


def wait_for(device: torch.device) -> None:
    """Wait until `device` has done what it was asked for; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def _arguments(spec: TrialSpec, order: EffectiveBatches, base: BaseModel, folder: Path) -> TrainingArguments:
    settings = spec.settings
    return TrainingArguments(
        output_dir=str(folder),
        seed=spec.seed,
        num_train_epochs=1,
        per_device_train_batch_size=max(len(rows) for rows in order.micro_batches),
        gradient_accumulation_steps=order.per_step,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=SCHEDULERS[settings.scheduler],
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        neftune_noise_alpha=settings.neftune_noise or None,
        use_cpu=base.device.type == "cpu",
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
