"""Keeping what is known: the study database, who may write it, and what can go wrong around it.

`database` opens it, `writer` is its only writer's view, `lock` and `postgres` see to it that there is only
one; `patience` waits for locked or restarting databases, `disk` watches the room.
"""
