"""Base models: `pretrained` finds or fetches them, `modeling` loads them and puts adapters on and off.

`adapters` is a LoRA layer with a leaner training step.
"""
