from sweeper.report.facts import SweepFacts


def card(facts: SweepFacts) -> str:
    return ""
