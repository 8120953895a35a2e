"""Listener: MLflow, where trials are compared in its UI.

`tracker` chooses, `sending` decides when something is sent, `runs` how it looks there.
"""
