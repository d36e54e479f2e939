"""Who calls, what they may do, how much of it, and what is written down about it. See docs/security.md.

Nothing here runs unless `OMNIALIGN_AUTH_TOKENS_FILE` or `OMNIALIGN_AUTH_OIDC_ISSUER` is set: on a laptop every call is
let in, and no call pays for the question.
"""
