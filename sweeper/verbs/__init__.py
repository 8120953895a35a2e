"""What the verbs `trials`, `export`, `train` and `repair` do; `sweeper.app` calls them.

`retrain` is `train`; `commands` reads what a person types to steer a sweep.
"""
