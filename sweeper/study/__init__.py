"""The search: what is tried next, what is stopped early, what is best.

`study` opens or resumes the Optuna study and is what the rest talks to; `samplers`, `pruners` and
`objectives` decide; `outcomes` is how the end of a trial is stored, `differences` why a resume is refused.
"""
