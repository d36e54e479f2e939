"""The OpenAI-compatible door: `/v1/models`, `/v1/chat/completions` and `/v1/completions` over the Generate RPC.

It holds no state and no rights: a key is a token of ours, which goes on to the gateway with every call, and so its
roles, rates and quotas apply. docs/openai.md says what is taken and what is refused.
"""

from services.console.door.routes import Connect, DoorSettings, routes

__all__ = ["Connect", "DoorSettings", "routes"]
