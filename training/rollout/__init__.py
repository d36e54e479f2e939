"""What reinforcement learning asks of the services: answers of the policy, rewards for them, and newer weights.

`handover` gives the engine the trainer's weights, `client` draws answers, `rewards` rates them, and `groups` makes of
both what a step learns from. Rank 0 alone talks to the services; the trainer shares out what comes back.
"""
