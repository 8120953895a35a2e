"""What a sweep came to, told at its end and whenever somebody asks: on screen, in the report, on the card."""

from sweeper import verdict
from sweeper.config import Config, TrackingConfig
from sweeper.credentials import masked
from sweeper.errors import SweeperError
from sweeper.events import SweepInfo, TrialRecord
from sweeper.launch import sweep_info
from sweeper.layout import Layout
from sweeper.observations import observations
from sweeper.observations import read as read_seen
from sweeper.report import read_facts, write_card, write_page
from sweeper.storage.disk import naming
from sweeper.study.study import Study
from sweeper.terminal.screen import Screen
from sweeper.terminal.tables import conclusions, trial_table, verdict_table
from sweeper.tracking.tracker import Tracker


def conclude(study: Study, config: Config, layout: Layout, screen: Screen, samples: bool = False) -> int:
    """Print trials, verdict and where to look further; gives the exit code."""
    info, best = sweep_info(study, config, layout), study.best()
    show_trials(study, info, screen)
    if layout.best.exists():
        adapter = (layout.best / "adapter_config.json").exists()
        what = "adapter: {} (an ordinary PEFT folder)" if adapter else "model: {} (weights for transformers)"
        screen.say(f"Best {what}".replace("{}", str(layout.best)))
    if best is not None:
        if samples:
            _show_samples(best, screen)
        _show_verdict(study, config, layout, screen)
    shown = [f"python -m sweeper show {layout.name}{layout.flag}", *_tracked(config.tracking, layout)]
    screen.say(f"Look further: {'   '.join(shown)}")
    return 0 if best is not None else 1


def _tracked(tracking: TrackingConfig, layout: Layout) -> list[str]:
    """Where to look at what was tracked, if anything was."""
    if tracking.name == "none":
        return []
    if tracking.uri is None:
        return [f"python -m sweeper ui{layout.flag}"]
    return [f"MLflow: {masked(tracking.uri)}"]


def show_trials(study: Study, info: SweepInfo, screen: Screen) -> None:
    records, best = study.records(), study.best()
    screen.console.print()
    screen.console.print(trial_table(info, records, best))
    for line in conclusions(info, records, best):
        screen.say(line)
    limit = ((info.config.get("task") or {}).get("generation") or {}).get("max_new_tokens")
    screen.note(observations(read_seen(study, Layout(info.folder.parent, info.folder.name), limit)))


def _show_verdict(study: Study, config: Config, layout: Layout, screen: Screen) -> None:
    facts = verdict.reached(study, config, layout)
    if facts is None:
        if outlook := verdict.outlook(study, config, layout):
            screen.say(outlook)
        return
    screen.console.print()
    screen.console.print(verdict_table(facts, config.task.objective.metric))
    screen.say(f"Verdict: {facts.sentence}")


def conclude_in_writing(layout: Layout, tracker: Tracker, screen: Screen) -> None:
    """The report at the end of a run; one that can't be written takes nothing from the sweep."""
    try:
        with naming(layout.folder):
            publish(layout, tracker, screen, running=False)
    except SweeperError as error:
        screen.say(f"Warning: {error}")


def _show_samples(best: TrialRecord, screen: Screen) -> None:
    for sample in best.samples[:3]:
        screen.say(f"\nPrompt:    {sample.prompt}\nReference: {sample.reference}\nOutput:    {sample.output}")


def publish(layout: Layout, tracker: Tracker, screen: Screen, running: bool | None = None) -> None:
    """Write the report and the model card, and put the report beside the sweep's runs in `tracker`.

    While the sweep is running there is no card: the best trial may be another one than the copied adapter's.
    `running` None: asked of the sweep's lock. Raises StudyError, or CardError once the report is written.
    """
    facts = read_facts(layout, verdict.read(layout), running)
    page = write_page(facts, layout)
    screen.say(f"Report: {page}")
    tracker.attach(page)
    card = write_card(facts, layout) if facts.state != "running" else None
    if card is not None:
        screen.say(f"Model card: {card}")
