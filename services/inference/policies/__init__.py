"""Policies: models whose weights change while reinforcement learning trains them.

To the engine, every version of a policy is a model of its own: the base model, or a `file://` folder with new weights.
`store` keeps which version is held and lets requests finish on the one they began with; `delivery` takes new weights
in, and `weights` makes them a model that fits the base.
"""
