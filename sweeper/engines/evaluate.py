"""Evaluation of a model on rows: losses, generated answers, predicted classes."""

import gc
import math
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig

from sweeper.config import TaskConfig
from sweeper.config.metrics import needs_answers
from sweeper.engines import unpadded
from sweeper.engines.batches import IGNORED, Batch, Row, collate, pad_rows
from sweeper.errors import TrialError
from sweeper.messages import Evaluation, HeldOutScores, Sample
from sweeper.metrics import About, Answers, Classes, Floats, Scores, Slicing, Texts, objective_rows, score
from sweeper.models.modeling import BaseModel

GAP_SHARE = 0.5
"""A gap between validation and training loss beyond this share of the validation loss is overfitting."""

LEAST_GAP = 0.05
"""Nats, per token or per class: what matters. It is 5 % of the probability that the right answer is given."""

_PASS_TOKENS = 1024
"""Tokens per forward pass for losses on a CPU: with an adapter, 48 rows of 65 tokens took 3.5 s at once and
1.9 s in thirds."""

Written = tuple[str, bool]
"""An answer, and whether it ended by itself rather than at `max_new_tokens`."""

Tick = Callable[[int, int], None]
"""Called between batches with the rows that are done and those that there are; may raise to leave the
evaluation."""


class Evaluator:
    """Answers `rows` with whatever is on the base model.

    `tick` is called between batches. The batch size has no influence on the answers; when memory runs out
    it is halved for good.
    """

    def __init__(
        self,
        base: BaseModel,
        task: TaskConfig,
        rows: Sequence[Row],
        labels: Sequence[str],
        slicing: Slicing | None = None,
    ) -> None:
        """`slicing` tells the rows apart; by default it is fixed by them, as it is for validation rows."""
        self.base = base
        self.task = task
        self.rows = rows
        self.labels = labels
        about = _about(rows)
        self.slicing = slicing or Slicing.of(about)
        self._slices = self.slicing.over(about)
        self._batch_size = task.evaluation.batch_size
        self._writes = needs_answers(task.kind, task.named_metrics)

    def answers(self, model: Any, tick: Tick) -> Answers:
        """Losses of all rows, with predicted classes or, if the task's metrics need them, generated texts."""
        return self.answers_of_each(model, 1, tick)[0]

    def answers_of_each(self, model: Any, adapters: int, tick: Tick) -> Sequence[Answers]:
        """Answers of as many adapters, to each of which the model gives its equal part of a batch's rows."""

        def each(
            work: "Callable[[Any, Sequence[Row]], list[T]]",
        ) -> "Callable[[Sequence[Row]], list[list[T]]]":
            """`work` on as many copies of some rows; per row, what was found for each adapter."""

            def together(rows: Sequence[Row]) -> "list[list[T]]":
                found = work(model, [*rows] * adapters)
                return [found[i :: len(rows)] for i in range(len(rows))]

            return together

        model.eval()
        with torch.no_grad():
            if self._reads_once(model):
                read = self._over(self.rows, _prompt_length, each(self._read_once), tick)
                return [self._texts_of(*zip(*one, strict=True)) for one in zip(*read, strict=True)]
            forward = each(self._forward)

            def tick_of_losses(done: int, of: int) -> None:
                tick(0 if self._writes else done, of)  # a row is done once its answer is written

            found = self._over(
                self.rows, _length, lambda rows: self._in_parts(rows, adapters, forward), tick_of_losses
            )
            losses = list(zip(*found, strict=True))
            if not self._writes:
                return [self._judged(*zip(*one, strict=True)) for one in losses]
            texts = zip(*self._over(self.rows, _prompt_length, each(self._texts), tick), strict=True)
            return [
                self._texts_of([nats for nats, _, _ in one], [count for _, count, _ in one], written)
                for one, written in zip(losses, texts, strict=True)
            ]

    def scores(self, answers: Answers) -> Scores:
        """Every metric of the answers, over all rows and over slices of them."""
        return score(self.task, answers, self._slices)

    def samples(self, model: Any, answers: Answers, tick: Tick) -> tuple[Sample, ...]:
        """The first rows with the model's answers, for people to read."""
        rows = self.rows[: self.task.evaluation.samples]
        if isinstance(answers, Texts):
            outputs: Sequence[str] = answers.outputs
        elif isinstance(answers, Classes):
            outputs = [self.labels[i] for i in answers.predicted]
        else:
            model.eval()
            with torch.no_grad():
                outputs = self._generate(model, rows, tick)
        return tuple(Sample(r.id, r.prompt, r.answer, o) for r, o in zip(rows, outputs, strict=False))

    def held_out(self, model: Any, tick: Tick) -> HeldOutScores:
        """Everything that a verdict wants to know of test rows. Raises TrialError for scores not finite."""
        answers = self.answers(model, tick)
        scores = self.scores(answers)
        if not (math.isfinite(scores.objective) and math.isfinite(scores.metrics["loss"])):
            raise TrialError("the test loss or the objective on the test rows is not finite")
        rows = objective_rows(self.task, answers)
        return HeldOutScores(
            objective=scores.objective,
            error=scores.error,
            metrics=scores.metrics,
            rows=() if rows is None else tuple(rows.tolist()),
            slices=scores.slices,
            samples=self.samples(model, answers, tick),
            errors=scores.errors,
            confusion=scores.confusion,
            count=len(self.rows),
        )

    def _judged(self, sums: Sequence[float], counts: Sequence[int], shares: Sequence[Floats]) -> Answers:
        if self.task.kind == "chat":
            return Answers(sums, counts)
        every = np.stack(shares)
        likeliest, true = every.argmax(-1).tolist(), [row.label for row in self.rows]
        return Classes(sums, counts, likeliest, true, every, self.labels)

    def _texts_of(self, sums: Sequence[float], counts: Sequence[int], written: Sequence[Written]) -> Texts:
        rows, outputs = self.rows, [text for text, _ in written]
        answers, prompts = [row.answer for row in rows], [row.prompt for row in rows]
        return Texts(sums, counts, outputs, answers, prompts, [is_ended for _, is_ended in written])

    def _in_parts(
        self, rows: Sequence[Row], adapters: int, work: "Callable[[Sequence[Row]], list[T]]"
    ) -> "list[T]":
        """`work` on as many rows at once as are fast."""
        at_once = len(rows)
        if self.base.device.type == "cpu":
            at_once = max(1, _PASS_TOKENS // (adapters * max(map(_length, rows))))
        parts = (rows[start : start + at_once] for start in range(0, len(rows), at_once))
        return [found for part in parts for found in work(part)]

    def _forward(self, model: Any, rows: Sequence[Row]) -> list[tuple[float, int, Floats]]:
        """Per row: nats summed over its targets, their number, and the probabilities of classes, if any."""
        batch = self._batch(rows)
        scores = unpadded.logits(model, self.base.kind, batch)
        sums, counts = _sums(scores, batch, len(rows))
        classifies = self.task.kind == "classify"
        shares = scores.double().softmax(-1) if classifies else torch.zeros(len(rows), 0)
        return list(zip(sums.tolist(), counts.tolist(), shares.cpu().numpy(), strict=True))

    def _batch(self, rows: Sequence[Row]) -> Batch:
        batch = collate(rows, self.base.kind, self.base.tokenizer.pad_token_id)
        return {name: tensor.to(self.base.device) for name, tensor in batch.items()}

    def _generate(self, model: Any, rows: Sequence[Row], tick: Tick) -> list[str]:
        written = self._over(rows, _prompt_length, lambda some: self._texts(model, some), tick)
        return [text for text, _ in written]

    def _reads_once(self, model: Any) -> bool:
        """True where losses and answers can share what the model remembers of the prompts."""
        generates = self._writes and self.task.generation.num_beams == 1
        return (
            generates
            and self.base.kind == "causal"
            and unpadded.fits(model)
            and all(map(_goes_on, self.rows))
        )

    def _read_once(self, model: Any, rows: Sequence[Row]) -> list[tuple[float, int, Written]]:
        """Per row: nats summed over its answer, the answer's tokens, and what the model writes."""
        batch = self._batch(rows)
        prompts = [len(row.prompt_ids) for row in rows]
        reading = unpadded.Reading(batch, self.task.generation.max_new_tokens, prompts)
        scores = reading.logits(model)
        sums, counts = _sums(scores, batch, len(rows))
        # A conversation has targets before its last answer too.
        before = torch.tensor([_targets(row.labels[1:end]) for row, end in zip(rows, prompts, strict=True)])
        first = scores[counts.cumsum(0) - counts + before.to(counts.device)].argmax(-1)
        written = reading.write(model, first, self._ends(first.device), self.base.tokenizer.pad_token_id)
        return list(zip(sums.tolist(), counts.tolist(), self._said(written), strict=True))

    def _prompts(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Ids and attention mask of the prompts, padded on the left."""
        return pad_rows([row.prompt_ids for row in rows], self.base.tokenizer.pad_token_id, left=True)

    def _texts(self, model: Any, rows: Sequence[Row]) -> list[Written]:
        ids, mask = self._prompts(rows)
        return self._write(model, ids.to(self.base.device), mask.to(self.base.device))

    def _write(self, model: Any, ids: Tensor, mask: Tensor) -> list[Written]:
        """What the model puts after the prompts."""
        wanted = self.task.generation
        config = GenerationConfig(
            max_new_tokens=wanted.max_new_tokens, num_beams=wanted.num_beams, do_sample=False, use_cache=True
        )
        found: Tensor = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        # A decoder of its own begins with a token that nobody has written, and that may be its end token.
        return self._said(found[:, 1 if self.base.kind == "seq2seq" else ids.shape[1] :])

    def _said(self, tokens: Tensor) -> list[Written]:
        if self.task.kind == "chat":  # some templates mark tool calls by special tokens
            texts = self.base.tokenizer.batch_decode(self._until_end(tokens), skip_special_tokens=False)
        else:
            texts = self.base.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        ended = torch.isin(tokens, self._ends(tokens.device)).any(-1)
        if tokens.shape[1] < self.task.generation.max_new_tokens:
            ended |= True  # all have ended before the limit, whatever with
        return [(text.strip(), is_ended) for text, is_ended in zip(texts, ended.tolist(), strict=True)]

    def _until_end(self, tokens: Tensor) -> list[list[int]]:
        """Each row's tokens before the one that ends it."""
        ends = self._ends(tokens.device).flatten().tolist()
        return [list(takewhile(lambda token: token not in ends, row)) for row in tokens.tolist()]

    def _ends(self, device: torch.device) -> Tensor:
        """The tokens that end an answer."""
        ends = self.base.model.generation_config.eos_token_id
        return torch.tensor([] if ends is None else ends, dtype=torch.long, device=device)

    def _over(
        self,
        rows: Sequence[Row],
        length: Callable[[Row], int],
        work: "Callable[[Sequence[Row]], list[T]]",
        tick: Tick,
    ) -> "list[T]":
        """`work` on batches of rows of like length, its results in the order of `rows`."""
        order = sorted(range(len(rows)), key=lambda i: length(rows[i]), reverse=True)
        results: dict[int, T] = {}
        while len(results) < len(order):
            chosen = order[len(results) : len(results) + self._batch_size]
            try:
                found = work([rows[i] for i in chosen])
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not out_of_memory(error) or self._batch_size == 1:
                    raise
                found = None
            if found is None:
                self._batch_size = max(1, self._batch_size // 2)
                free_memory()
                continue
            results.update(zip(chosen, found, strict=True))
            tick(len(results), len(order))
        return [results[i] for i in range(len(rows))]


def _sums(scores: Tensor, batch: Batch, rows: int) -> tuple[Tensor, Tensor]:
    """Per row: nats summed over its targets, and their number."""
    nats = F.cross_entropy(scores, batch["targets"], reduction="none").double()
    sums = torch.zeros(rows, dtype=torch.double).index_add_(0, batch["row"].cpu(), nats.cpu())
    return sums, torch.bincount(batch["row"], minlength=rows)


T = TypeVar("T")


def out_of_memory(error: BaseException) -> bool:
    """True if `error` says that the device, or the CPU's allocator, has no memory left."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in said or "out of memory" in said.lower())
    )


def free_memory() -> None:
    """Give back what the failed pass still holds; call outside of the except block."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def overfitting(evaluations: Sequence[Evaluation], epochs: int) -> str:
    """A sentence if the curve of a trial of so many epochs shows overfitting, else "".

    Overfitting is a validation loss above its minimum at two successive marks while the training loss fell,
    or a gap between the two that has grown beyond `GAP_SHARE` of the lowest validation loss. Neither counts
    below `LEAST_GAP`.
    """
    evaluations = [one for one in evaluations if "train_loss" in one.metrics]
    if not evaluations:
        return ""
    ways = f"{'fewer epochs, ' if epochs > 1 else ''}a lower learning rate or more rows help"
    losses = [one.metrics["loss"] for one in evaluations]
    training = [one.metrics["train_loss"] for one in evaluations]
    lowest = losses.index(min(losses))
    rose = losses[-1] - losses[lowest]
    if len(losses) - lowest > 2 and training[-1] < training[lowest] and rose >= LEAST_GAP:
        return (
            f"overfitting: after example {evaluations[lowest].mark} the validation loss rose from "
            f"{losses[lowest]:.3f} to {losses[-1]:.3f} while the training loss fell to {training[-1]:.3f}; "
            f"{ways}"
        )
    gaps = [validation - train for validation, train in zip(losses, training, strict=True)]
    if len(gaps) > 1 and gaps[-1] > gaps[0] and gaps[-1] > max(GAP_SHARE * losses[lowest], LEAST_GAP):
        return (
            f"overfitting: the validation loss ({losses[-1]:.3f}) is {gaps[-1]:.3f} above the training loss; "
            f"{ways}"
        )
    return ""


def _about(rows: Sequence[Row]) -> About:
    return About(
        [row.slice for row in rows],
        [row.group for row in rows],
        [len(row.prompt_ids) for row in rows],
        [row.label for row in rows],
    )


def _length(row: Row) -> int:
    return len(row.input_ids)


def _targets(labels: Sequence[int]) -> int:
    return sum(label != IGNORED for label in labels)


def _goes_on(row: Row) -> bool:
    """True if the row has the token by which its answer begins."""
    answer = row.labels[len(row.prompt_ids) :]
    return len(row.prompt_ids) > 0 and len(answer) > 0 and answer[0] != IGNORED


def _prompt_length(row: Row) -> int:
    return len(row.prompt_ids)
