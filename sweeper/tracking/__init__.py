"""Listener: MLflow, where trials are compared in its UI.

`sending` decides when something is sent, `runs` how it looks there, `store` is MLflow itself.
"""
