"""The other side of `make bench`: a sweep with transformers' own `Trainer.hyperparameter_search`.

    python -m tests.benchmarks.peer JOB.json

Written as its documentation has it, with what a practised user adds: the model is loaded and wrapped in
`model_init`, which Trainer calls for every trial; the loss is on the answer, by labels of -100; `evaluate`
adds ROUGE-L of batched, left-padded, greedy generation. Nothing is saved, neither checkpoint nor adapter, and
no trial is stopped early. It leaves an Optuna study and trials.json.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import optuna
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from rouge_score.rouge_scorer import RougeScorer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


@dataclass(frozen=True)
class Job:
    """What to train; the same as sweeper's configuration says, in plain values."""

    folder: str
    """Where trials.json goes."""
    study: str
    """URL of Optuna's database; the other side keeps its study in one, too."""
    name: str
    """Of the study."""
    model: str
    """Folder of the base model."""
    rows: str
    """Folder with train.arrow and validation.arrow, as sweeper has frozen them."""
    device: str
    dtype: str
    learning_rates: list[float]
    """One per trial, in this order."""
    rank: int
    alpha: float
    batch_size: int
    epochs: int
    scheduler: str
    warmup: float
    evaluation_steps: int
    """Optimizer steps between two evaluations."""
    evaluation_batch_size: int
    max_new_tokens: int
    seed: int


@dataclass
class Result:
    """What a trial cost and found."""

    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    objective: float = 0.0
    error: float = 0.0
    loss: float = 0.0


class Stopwatch(TrainerCallback):
    """Adds up the seconds of a trial's training steps: the very calls between which sweeper measures too."""

    def __init__(self, results: list[Result]) -> None:
        self._results = results

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._results.append(Result())

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._results[-1].train_seconds += time.perf_counter() - self._started


class SummaryTrainer(Trainer):
    """Trainer whose evaluation also generates."""

    def __init__(self, job: Job, results: list[Result], **kwargs: Any) -> None:
        super().__init__(callbacks=[Stopwatch(results)], **kwargs)
        self._job = job
        self._results = results
        self._scorer = RougeScorer(["rougeL"], use_stemmer=True)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        started = time.perf_counter()
        metrics = super().evaluate(*args, **kwargs)
        scores = self._rouge()
        metrics["eval_rougeL"] = mean(scores)
        result = self._results[-1]
        result.objective, result.error = mean(scores), stdev(scores) / len(scores) ** 0.5
        result.loss = metrics["eval_loss"]
        result.evaluation_seconds += time.perf_counter() - started
        return metrics

    def _rouge(self) -> list[float]:
        tokenizer, rows, size = self.processing_class, self.eval_dataset, self._job.evaluation_batch_size
        self.model.eval()
        scores = []
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            inputs = tokenizer.pad(
                {"input_ids": batch["prompt_ids"]}, padding_side="left", return_tensors="pt"
            ).to(self.model.device)
            found = self.model.generate(
                **inputs,
                max_new_tokens=self._job.max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
            texts = tokenizer.batch_decode(found[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            scores += [
                self._scorer.score(reference, text.strip())["rougeL"].fmeasure
                for reference, text in zip(batch["answer"], texts, strict=True)
            ]
        return scores


def search(job: Job) -> list[Result]:
    """Run the trials of `job`, one after another."""
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    train, validation = (
        Dataset.from_file(str(Path(job.rows) / name)) for name in ("train.arrow", "validation.arrow")
    )

    def model_init() -> Any:
        model = AutoModelForCausalLM.from_pretrained(job.model, dtype=getattr(torch, job.dtype))
        config = LoraConfig(
            task_type="CAUSAL_LM", r=job.rank, lora_alpha=job.alpha, target_modules="all-linear"
        )
        return get_peft_model(model, config)

    results: list[Result] = []
    trainer = SummaryTrainer(
        job,
        results,
        model_init=model_init,
        args=TrainingArguments(
            output_dir=f"{job.folder}/runs",
            seed=job.seed,
            num_train_epochs=job.epochs,
            per_device_train_batch_size=job.batch_size,
            per_device_eval_batch_size=job.evaluation_batch_size,
            lr_scheduler_type=job.scheduler,
            warmup_steps=job.warmup,
            eval_strategy="steps",
            eval_steps=job.evaluation_steps,
            prediction_loss_only=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=job.device == "cpu",
            dataloader_pin_memory=job.device == "cuda",
        ),
        train_dataset=train.select_columns(["input_ids", "labels"]),
        eval_dataset=validation.select_columns(["input_ids", "labels", "prompt_ids", "answer"]),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )
    study: dict[str, Any] = {"storage": job.study, "study_name": job.name}
    planned = optuna.create_study(**study, direction="maximize")
    for rate in job.learning_rates:
        planned.enqueue_trial({"learning_rate": rate})
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1.0, log=True)},
        compute_objective=lambda metrics: metrics["eval_rougeL"],
        n_trials=len(job.learning_rates),
        direction="maximize",
        backend="optuna",
        pruner=optuna.pruners.NopPruner(),
        load_if_exists=True,
        **study,
    )
    return results


if __name__ == "__main__":
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    found = search(job)
    told = {
        "device_memory_bytes": torch.cuda.max_memory_allocated() if job.device == "cuda" else 0,
        "trials": [asdict(result) for result in found],
    }
    (Path(job.folder) / "trials.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
